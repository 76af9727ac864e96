"""Forms: what each lowering of one annotation costs on the CPU, as time of the whole file; one int8 range is 1.00."""

from __future__ import annotations

from dataclasses import dataclass

from qonnx_pipe.recipe import load
from qonnx_pipe.runtime.clock import speedup
from qonnx_pipe.runtime.race import Racer, race
from qonnx_pipe.runtime.shapes import from_batches
from tests.bench.made import QUICKSTART, Made, make
from tests.bench.outcome import Outcome, at_most

SHAPE = (8, 128)
THREADS = 2


@dataclass(frozen=True)
class Form:
    """A way to quantize every site of one role of MiniLM; `limit`: times the per-tensor file's time, at most."""

    name: str
    role: str
    settings: str
    limit: float | None = None


SMOOTHED = "{smooth: 0.7}"
FOLDED = "{lowering: fold, shift: true}"
EXPANDED = "{lowering: expand, columns: 16}"
FORMS = (
    Form("fold, scales", "ffn.input", SMOOTHED, 1.03),
    Form("fold, scales and shifts", "ffn.input", FOLDED, 1.03),
    Form("fold into V", "attention.context", FOLDED, 1.03),
    Form("expand 16", "ffn.input", EXPANDED, 1.10),
    Form("expand 16", "ffn.activation", EXPANDED, 1.10),
    Form(
        "split [368, 16]",
        "ffn.input",
        "{granularity: {per_embedding_group: [368, 16]}, permute: range, share: model, lowering: split}",
        1.25,
    ),
    Form(
        "split [1520, 16]",
        "ffn.activation",
        "{granularity: {per_embedding_group: [1520, 16]}, permute: range, lowering: split}",
        1.25,
    ),
    Form("split 6", "ffn.input", "{granularity: {per_embedding_group: 6}, permute: range, lowering: split}"),
    Form("split 6", "ffn.activation", "{granularity: {per_embedding_group: 6}, permute: range, lowering: split}"),
)


def forms(rounds: int) -> Outcome:
    """Every form at every layer's site of its role, and all of them against one range, interleaved."""
    plain = _made("plain", "[]")
    made = [
        _made(f"form{i}", f"[{{match: {{role: {form.role}}}, activations: {form.settings}}}]")
        for i, form in enumerate(FORMS)
    ]
    choice = plain.evaluation
    texts = plain.batches(choice, samples=64, batch_size=16, max_length=128)
    racers = [Racer(one.quantized) for one in (plain, *made)]
    timings = race(racers, from_batches(texts, *SHAPE), threads=THREADS, rounds=rounds)
    rows, bounds = [], []
    for form, timing in zip(FORMS, timings[1:], strict=True):
        ratio, (low, high) = speedup(timing.rounds, timings[0].rounds)
        rows.append((form.role, form.name, f"{ratio:.3f}", f"{low:.3f} to {high:.3f}"))
        if form.limit is not None:
            bounds.append(at_most(f"time of {form.name} at {form.role}", ratio, form.limit))
    return Outcome(
        f"Forms of one annotation, MiniLM-L6, 8×128 ({rounds} rounds)", ("role", "form", "time", "95 %"), rows, bounds
    )


def _made(name: str, rules: str) -> Made:
    return make(load(QUICKSTART, (f"name=forms-{name}", f"quantize.rules={rules}", "quantize.bias_correction=false")))
