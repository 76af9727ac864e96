"""Lowerings: the form of one activation, chosen by what each legal form costs in time and leaves of the signal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qonnx_pipe.core.encoding import EmbeddingGroups, Encoding, Windows
from qonnx_pipe.core.plan import Lowering

CLOSE_DB = 1.0
"""Forms whose worth differs by less count as equally good: samples and timings tell no finer difference."""

PERCENT_PER_DB = 5.0
"""Time that one dB is worth, in per cent of the site's time: at twice the time a form must gain 20 dB."""


@dataclass(frozen=True)
class Candidate:
    """One legal form: time over that of the plain per-tensor form; SQNR in dB of what the readers then compute.

    `predicted`: what `predicted_time` says, for the reader of the reason to compare.
    """

    form: Lowering
    time: float
    sqnr_db: float
    predicted: float | None = None

    @property
    def worth(self) -> float:
        """SQNR in dB, less a dB for every PERCENT_PER_DB per cent of time beyond the per-tensor form's."""
        return self.sqnr_db - (self.time - 1.0) * 100.0 / PERCENT_PER_DB

    def __str__(self) -> str:
        guess = "" if self.predicted is None else f" ({self.predicted:.2f}× predicted)"
        return f"{self.form} {self.sqnr_db:.1f} dB at {self.time:.2f}×{guess}"


def choose(candidates: Sequence[Candidate]) -> tuple[Candidate, str]:
    """The form to take and the reason, with the figures of all of them.

    Among the integer forms whose `worth` is within CLOSE_DB of the greatest, the cheapest is taken; of two that cost
    the same, the better. A form that leaves the activation float has no error but the weight's, and so sets no mark for
    the others: it is taken where it costs no more than the best of them. ValueError without candidates.
    """
    if not candidates:
        raise ValueError("no form is legal here")
    integer = [candidate for candidate in candidates if candidate.form != "float"]
    chosen = _cheapest(integer or candidates)
    for candidate in candidates:
        if candidate.form == "float" and candidate.time <= chosen.time:
            chosen = candidate
    others = [str(candidate) for candidate in candidates if candidate is not chosen]
    return chosen, f"auto: {chosen}" + (f"; not {', '.join(others)}" if others else "")


def _cheapest(candidates: Sequence[Candidate]) -> Candidate:
    most = max(candidate.worth for candidate in candidates)
    close = [candidate for candidate in candidates if candidate.worth >= most - CLOSE_DB]
    return min(close, key=lambda candidate: (candidate.time, -candidate.sqnr_db))


NODE = 2e4
"""What starting an operator costs, in int8 multiplications of a MatMul; so do the constants below."""

ELEMENT = 30.0
"""Reading, changing and writing one float of a tensor."""

GATHERED = 300.0
"""Moving one element along the last axis: onnxruntime's Gather does it one by one."""

FLOAT_PRODUCT = 2.6
"""One float multiplication."""


def predicted_time(form: Lowering, encoding: Encoding | None, *, tokens: int, width: int, outs: int) -> float:
    """Time of a form over that of the per-tensor one, by counting work on onnxruntime's CPU provider.

    [tokens, width] activations, read by linear layers of `outs` output features together; `encoding` None is float.
    The constants fit four sites of MiniLM (width 384 and 1536) to a fifth, where dimensions are gathered. What is
    measured decides; a prediction far from it tells of a busy machine, or of another kernel than expected.
    """
    products, elements = float(tokens) * width * outs, float(tokens) * width * ELEMENT
    plain = products + elements + 2 * NODE
    layout = None if encoding is None else encoding.granularity
    extra = 0.0
    if layout is None:
        return (products * FLOAT_PRODUCT + NODE) / plain
    if isinstance(layout, Windows):
        columns = tokens * len(layout.dimensions)
        extra = columns * (outs + GATHERED + 2 * ELEMENT) + elements / 4 + 4 * NODE
    elif form == "split" and isinstance(layout, EmbeddingGroups):
        pieces = len(layout.sizes)
        order = 0.0 if layout.is_identity else tokens * width * GATHERED
        extra = order + elements + (pieces - 1) * (tokens * outs * ELEMENT + 2 * NODE)
    elif form == "fold":
        extra = elements / 2 + NODE  # the residual branch is scaled back
    return (plain + extra) / plain
