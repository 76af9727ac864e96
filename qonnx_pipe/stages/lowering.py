"""Lowering: a plan whose forms are open, settled by what calibration saw and by what each form costs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from qonnx_pipe.allocators.lowerings import Candidate, choose, predicted_time
from qonnx_pipe.core.affine import Affine
from qonnx_pipe.core.encoding import Encoding, FloatArray, Windows
from qonnx_pipe.core.granularity import PerTensor
from qonnx_pipe.core.numerics import dequantize, fake_quantize, sqnr_db
from qonnx_pipe.core.plan import Lowering, PlanEntry, QuantPlan
from qonnx_pipe.core.site import Role, Skipped
from qonnx_pipe.core.spec import QuantSpec
from qonnx_pipe.core.statistics import CalibrationTable, SiteStatistics
from qonnx_pipe.errors import DataError
from qonnx_pipe.graph import fold, io
from qonnx_pipe.graph.site_model import Surroundings, site_input, site_model, surroundings
from qonnx_pipe.observers.encode import CALIBRATE_TOKENS, encode_activation
from qonnx_pipe.observers.expand import budget, plain_step
from qonnx_pipe.observers.fold import by_groups
from qonnx_pipe.observers.weights import encode_weight, quantize_weight
from qonnx_pipe.runtime.costs import relative_times

TOKENS = 1024
"""Tokens of a timed run: eight sequences of 128."""

LEAST_GAIN_DB = 1.0
"""An expansion that gains less is not worth its columns, and is told."""

Measure = Callable[[Mapping[str, bytes], Mapping[str, npt.NDArray[np.generic]]], Mapping[str, float]]
"""ONNX files by form, and inputs → time of each over that of the first."""


@dataclass(frozen=True, eq=False)
class _Form:
    """One legal form of a site: what the spec becomes, and the encoding behind the fold, if there is one."""

    lowering: Lowering
    spec: QuantSpec | None
    encoding: Encoding | None
    affine: Affine | None = None


def settle_forms(
    model: Path, plan: QuantPlan, table: CalibrationTable, *, measure: Measure = relative_times
) -> QuantPlan:
    """The plan with a form for every entry that is "auto", and the gain of every expansion as its reason.

    1. "auto": among `split`, `fold`, `expand` and `float`, as far as they are legal at the site, the one that
       `allocators.lowerings.choose` takes, by measured time and by the error of what the linear layers compute from
       the sampled tokens with their quantized weights. The reason holds the figures.
    2. "expand": stays, and says by how much its step shrinks; where that gains less than LEAST_GAIN_DB the site gets
       one plain scale, and `skipped` says so.

    A plan without either is returned as it is. Raises DataError when the table lacks a site or its sampled tokens, and
    what `measure` raises.
    """
    if not any(entry.lowering in ("auto", "expand") for entry in plan.entries):
        return plan
    work = _Settling(io.load(model), plan, table, measure)
    entries: list[PlanEntry] = []
    skipped = list(plan.skipped)
    for entry in plan.entries:
        settled = entry
        if entry.lowering == "auto":
            settled = work.chosen(entry)
        elif entry.lowering == "expand":
            settled, told = _expanded(entry, work.statistics(entry))
            skipped += told
        entries.append(settled)
    return replace(plan, entries=tuple(entries), skipped=tuple(skipped))


class _Settling:
    """One plan being settled; sites that look alike are timed once."""

    def __init__(self, model: io.Model, plan: QuantPlan, table: CalibrationTable, measure: Measure) -> None:
        self._model, self._table, self._measure = model, table, measure
        self._corrects = plan.bias_correction
        weights = (entry for entry in plan.entries if entry.site.role is Role.WEIGHT)
        self._weights = {name: entry for entry in weights for name in entry.site.feeds}
        self._times: dict[object, Mapping[str, float]] = {}

    def statistics(self, entry: PlanEntry) -> SiteStatistics:
        """What calibration saw at a site."""
        if entry.site.id not in self._table.sites:
            fix = "calibrate this very model: `qpipe calibrate`"
            raise DataError("the calibration table has no statistics here", where=entry.site.id, fix=fix)
        return self._table.sites[entry.site.id]

    def chosen(self, entry: PlanEntry) -> PlanEntry:
        """An "auto" entry with its form."""
        statistics = self.statistics(entry)
        if statistics.samples is None:
            what = "calibration kept no tokens here, which the choice of a form needs"
            fix = f"calibrate with the recipe, or with {CALIBRATE_TOKENS}"
            raise DataError(what, where=entry.site.id, fix=fix)
        forms = {form.lowering: form for form in self._legal(entry, statistics)}
        times = self._timed(surroundings(self._model, entry.site), forms)
        errors = self._errors(entry, statistics.samples, list(forms.values()))
        outs = sum(matrix.shape[1] for matrix in fold.weights_behind(self._model, entry.site).values())
        size = {"tokens": TOKENS, "width": entry.site.width, "outs": outs}
        candidates = [
            Candidate(name, times[name], errors[name], predicted_time(name, form.encoding, **size))
            for name, form in forms.items()
        ]
        best, reason = choose(candidates)
        _, _, told = entry.reason.partition("; ")  # what a split costs here
        reason += f"; {told}" if told and best.form == "split" else ""
        return replace(entry, spec=forms[best.form].spec, lowering=best.form, reason=reason)

    def _legal(self, entry: PlanEntry, statistics: SiteStatistics) -> Iterator[_Form]:
        spec, site = entry.spec, entry.site
        assert spec is not None
        split = encode_activation(statistics, spec, site=site.id)
        yield _Form("split", replace(spec, form="split"), split)
        if not fold.obstacle(self._model, site, shift=True):
            affine, encoding = by_groups(split)
            yield _Form("fold", replace(spec, form="fold"), encoding, affine)
        if spec.dtype.bits <= 8 and budget(spec.columns, site.width):
            wide = replace(spec, form="expand", granularity=PerTensor())
            encoding = encode_activation(statistics, wide, site=site.id)
            if isinstance(encoding.granularity, Windows):
                yield _Form("expand", wide, encoding)
        yield _Form("float", None, None)

    def _timed(self, around: Surroundings, forms: Mapping[Lowering, _Form]) -> Mapping[str, float]:
        key = (around, tuple((name, _shape(form.encoding)) for name, form in forms.items()))
        if key not in self._times:
            split = forms["split"].encoding
            assert split is not None
            plain = Encoding(split.dtype, PerTensor(), split.scale.max(), split.zero_point[0])
            files = {"plain": site_model(around, "qdq", plain)} | {
                name: site_model(around, name, form.encoding, form.affine) for name, form in forms.items()
            }
            self._times[key] = self._measure(files, {"x": site_input(around, TOKENS)})
        return self._times[key]

    def _errors(self, entry: PlanEntry, samples: FloatArray, forms: list[_Form]) -> dict[str, float]:
        """SQNR in dB of what all readers compute from `samples`, by form: token by token or, if lower, of the mean.

        An error that all tokens share does not average out in sums and pooling behind the readers, so the mean output
        is held to the same figure; bias correction will take that error out.
        """
        matrices = fold.weights_behind(self._model, entry.site)
        exact = np.concatenate([samples @ matrix for matrix in matrices.values()], axis=1)
        found: dict[str, float] = {}
        for form in forms:
            moved = samples if form.affine is None else form.affine(samples)
            seen = moved if form.encoding is None else fake_quantize(moved, form.encoding)
            outputs = [self._output(name, matrix, seen, form.affine) for name, matrix in matrices.items()]
            noise = np.concatenate(outputs, axis=1) - exact
            if self._corrects:
                noise -= noise.mean(axis=0)
            mean = sqnr_db(exact.mean(axis=0), (exact + noise).mean(axis=0))
            found[form.lowering] = min(sqnr_db(exact, exact + noise), mean)
        return found

    def _output(self, layer: str, matrix: FloatArray, seen: FloatArray, affine: Affine | None) -> FloatArray:
        """x̂·Ŵ, or behind a fold x̂'·(s∘W)^ + z·W."""
        entry = self._weights[layer]
        rows = matrix if affine is None else (matrix * affine.scale[:, None]).astype(np.float32)
        if entry.spec is not None:
            encoding = encode_weight(rows, entry.spec, site=entry.site.id)
            rows = dequantize(quantize_weight(rows, encoding), encoding)
        product: FloatArray = seen @ rows
        return product if affine is None else product + affine.shift @ matrix


def _shape(encoding: Encoding | None) -> object:
    """What of an encoding decides the time of its form."""
    if encoding is None:
        return None
    layout = encoding.granularity
    return len(layout.dimensions) if isinstance(layout, Windows) else (getattr(layout, "sizes", ()))


def _expanded(entry: PlanEntry, statistics: SiteStatistics) -> tuple[PlanEntry, tuple[Skipped, ...]]:
    """An expanded entry with what its columns gain in its reason, or plain where they gain too little."""
    spec = entry.spec
    assert spec is not None
    if spec.folds:
        return entry, ()  # what it expands is what the fold will leave
    encoding = encode_activation(statistics, spec, site=entry.site.id)
    step = plain_step(statistics, spec)
    gain = 20.0 * float(np.log10(step / encoding.scale))
    if gain < LEAST_GAIN_DB or not isinstance(encoding.granularity, Windows):
        what = f"not expanded: {spec.columns} columns shrink the step by {gain:.1f} dB only"
        plain = replace(spec, form="auto")
        return replace(entry, spec=plain, lowering="qdq", reason=what), (Skipped(entry.site.id, what),)
    layout = encoding.granularity
    count, outliers = len(layout.dimensions), len(set(layout.dimensions))
    what = f"expand: {count} columns for {outliers} outlier dimensions make the step {gain:.1f} dB finer"
    return replace(entry, reason=what), ()
