"""Quantize: a float model, a plan and a calibration table → the quantized model and its encodings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from qonnx_pipe import __version__
from qonnx_pipe.core.affine import Affine
from qonnx_pipe.core.encoding import Encoding, FloatArray
from qonnx_pipe.core.encodings import Encodings
from qonnx_pipe.core.granularity import PerTensor
from qonnx_pipe.core.numerics import dequantize
from qonnx_pipe.core.plan import PlanEntry, QuantPlan
from qonnx_pipe.core.rounding import Codes
from qonnx_pipe.core.site import Role
from qonnx_pipe.core.statistics import CalibrationTable, SiteStatistics
from qonnx_pipe.errors import DataError
from qonnx_pipe.graph import io
from qonnx_pipe.graph.biases import add_to_biases
from qonnx_pipe.graph.equalise import equalising
from qonnx_pipe.graph.fold import fold, restores, weights_behind
from qonnx_pipe.graph.permute import permute
from qonnx_pipe.graph.quantize import quantize
from qonnx_pipe.graph.sampled import matrix, put_matrix
from qonnx_pipe.observers.fold import Reader, bias_error, by_groups, moved, search, smoothing
from qonnx_pipe.observers.orders import shared_orders
from qonnx_pipe.stages.quantize.encodings import TOKENS_FIX, encode, encode_and_round, statistics_of
from qonnx_pipe.stages.quantize.npu import quantize_npu


def quantize_stage(
    model: Path,
    plan: QuantPlan,
    table: CalibrationTable,
    target: Path,
    *,
    given: Mapping[str, Encoding] | None = None,
    rounded: Mapping[str, Codes] | None = None,
    trained: Encodings | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Encodings:
    """Write the quantized model to `target`; its graph inputs, outputs and metadata stay those of the float model.

    `given`: encodings by site id that were decided elsewhere, instead of those of the table and of the weights' values.
    `rounded`: learned codes by site id, of weights whose rounding is not nearest; a weight that none could be learned
    for is rounded to the nearest. `trained`: `model` is what `start_stage` wrote, trained since, together with these
    encodings: nothing is folded, looked for or corrected again. `metadata` is added to the file's own. Raises DataError
    when the table lacks a site or a statistic of the plan, or codes are of another weight, NumericsError for NaN in
    weights or statistics, and what `io.load` and `io.save` raise.
    """
    loaded = io.load(model)
    io.detach(loaded)
    if trained is not None:
        encode_trained = partial(encode_and_round, given=trained.weights, rounded={})
        encodings = replace(trained, weights=quantize(loaded, plan, trained.activations, encode_trained))
    elif plan.shape:
        encodings = quantize_npu(loaded, plan, table, given=given or {})
    else:
        encodings = _for_processors(loaded, plan, table, given=given or {}, rounded=rounded)
    loaded.producer_name, loaded.producer_version = "qonnx-pipe", __version__
    loaded.metadata_props.update(metadata or {})
    io.save(loaded, target)
    return encodings


def _for_processors(
    loaded: io.Model,
    plan: QuantPlan,
    table: CalibrationTable,
    *,
    given: Mapping[str, Encoding],
    rounded: Mapping[str, Codes] | None,
) -> Encodings:
    """Rewrite the float model in place; inputs of any size, and float wherever the plan leaves it."""
    behind, statistics = _behind_folds(loaded, plan, table, given)
    correction = _Correction(_to_correct(plan, behind.folds, rounded or {}), statistics)
    encode_one = partial(encode_and_round, given=given, rounded=rounded)
    weights = quantize(loaded, plan, behind.activations, encode_one, correction)
    return replace(behind, weights=weights, corrections=correction.sizes)


def fold_stage(model: Path, plan: QuantPlan, table: CalibrationTable, target: Path) -> None:
    """Write the float model to `target` as it is when its weights are quantized; errors as in `quantize_stage`."""
    loaded = io.load(model)
    io.detach(loaded)
    _behind_folds(loaded, plan, table, {})
    io.save(loaded, target, beside=True)


def start_stage(
    model: Path,
    plan: QuantPlan,
    table: CalibrationTable,
    folded: Path,
    start: Path,
    *,
    rounded: Mapping[str, Codes] | None = None,
) -> Encodings:
    """What `quantize_stage` would make of the float model, still in floats: where a training starts.

    To `folded` goes what `fold_stage` writes, to `start` the same with the biases corrected, and with the values of
    codes that were learned (`rounded`, by site id) in place of the weights. Errors as there.
    """
    rounded = rounded or {}
    loaded = io.load(model)
    io.detach(loaded)
    behind, statistics = _behind_folds(loaded, plan, table, {})
    io.save(loaded, folded, beside=True)
    correction = _Correction(_to_correct(plan, behind.folds, rounded), statistics)
    weights, errors = dict[str, Encoding](), dict[str, FloatArray]()
    for entry in (entry for entry in plan.quantized if entry.site.is_weight):
        site, weight = entry.site, matrix(loaded, entry.site)
        encoding, codes = encode_and_round(entry, weight, given={}, rounded=rounded)
        weights[site.id] = encoding
        if site.id in rounded:
            put_matrix(loaded, site, dequantize(codes, encoding))
        for linear in set(site.feeds) & set(correction.sites):
            error = correction(linear, weight, dequantize(codes, encoding))
            errors |= {} if error is None else {linear: error}
    add_to_biases(loaded, errors)
    io.save(loaded, start, beside=True)
    return replace(behind, weights=weights, corrections=correction.sizes)


def _behind_folds(
    model: io.Model, plan: QuantPlan, table: CalibrationTable, given: Mapping[str, Encoding]
) -> tuple[Encodings, Mapping[str, SiteStatistics]]:
    """Fold in place; the encodings of the activations, and their statistics as they are now."""
    table, orders, done = _permute(model, plan, table)
    folded = _fold(model, plan, table, orders)
    activations = folded.encodings | {
        entry.site.id: given.get(entry.site.id)
        or encode(entry, folded.statistics[entry.site.id], orders.get(entry.site.id))
        for entry in plan.quantized
        if not entry.site.is_weight and entry.site.id not in folded.encodings
    }
    return Encodings(activations, {}, folded.affines, {}, done), folded.statistics


Orders = Mapping[str, Sequence[int]]


def _permute(model: io.Model, plan: QuantPlan, table: CalibrationTable) -> tuple[CalibrationTable, Orders, Orders]:
    """Fold shared orders of dimensions in place.

    The statistics in the new order, each site's order of groups, and the order of each site that has a new one.
    """
    sites = {entry.site.id: entry.site for entry in plan.entries}
    shared = shared_orders(plan, table)
    done = permute(model, {sites[site].tensor: order for site, order in shared.items()}).orders
    moved = {site.id: done[site.tensor] for site in sites.values() if site.tensor in done}
    groups = {site: range(len(order)) if site in moved else order for site, order in shared.items()}
    return table.reordered(moved), groups, moved


@dataclass(frozen=True)
class _Folded:
    """Statistics of all planned activations as they are in the folded model, what the folds were, by site id.

    `encodings` of sites whose fold decides them.
    """

    statistics: Mapping[str, SiteStatistics]
    affines: Mapping[str, Affine]
    encodings: dict[str, Encoding]


def _fold(model: io.Model, plan: QuantPlan, table: CalibrationTable, orders: Orders) -> _Folded:
    """Fold every site that the plan wants folded, in place."""
    entries = {entry.site.id: entry for entry in plan.entries if not entry.site.is_weight}
    statistics = {
        site: statistics_of(entry, table)
        for site, entry in entries.items()
        if entry.spec or (plan.bias_correction and entry.site.feeds)
    }
    affines: dict[str, Affine] = {}
    encodings: dict[str, Encoding] = {}
    specs = {name: entry.spec for entry in plan.entries if entry.site.role is Role.WEIGHT for name in entry.site.feeds}
    for site, entry in entries.items():
        if entry.spec is None or not (entry.spec.folds or entry.lowering == "fold"):
            continue
        if entry.lowering == "fold" and not isinstance(entry.spec.granularity, PerTensor):
            affines[site], encodings[site] = by_groups(encode(entry, statistics[site], orders.get(site)))
            continue
        readers = [Reader(matrix, specs[name]) for name, matrix in weights_behind(model, entry.site).items()]
        costly = restores(model, entry.site)
        affines[site] = _chosen(entry, statistics[site], readers, plan, costly=costly)
    if plan.equalise:
        others = [entry.site for site, entry in entries.items() if site not in affines]
        affines |= {site.id: scale for site, scale in equalising(model, others).items()}
    changed = fold(model, {entries[site].site: affine for site, affine in affines.items()})
    moves = {site: changed[entry.site.tensor] for site, entry in entries.items() if entry.site.tensor in changed}
    statistics |= {site: moved(statistics[site], move) for site, move in moves.items() if site in statistics}
    return _Folded(statistics, affines, encodings)


def _chosen(
    entry: PlanEntry, statistics: SiteStatistics, readers: Sequence[Reader], plan: QuantPlan, *, costly: bool
) -> Affine:
    """The scale and shift of one site with one scale for the whole tensor."""
    assert entry.spec is not None
    if entry.spec.smooth:
        return smoothing(statistics, entry.spec, readers)
    try:
        corrected = plan.bias_correction or entry.spec.shift
        return search(statistics, entry.spec, readers, corrected=corrected, costly=costly)
    except ValueError as error:
        raise DataError(str(error), where=entry.site.id, fix=TOKENS_FIX) from error


def _to_correct(plan: QuantPlan, affines: Mapping[str, Affine], rounded: Mapping[str, Codes]) -> dict[str, str]:
    """Linear layers whose biases are corrected, and the site that each reads.

    All where the plan says so, else those behind a shift: zero lies far from the middle there, and what the weights'
    errors make of the distance is the same for every token. But none whose codes were learned: they already bring the
    quantized model's inputs to the float model's outputs, and would be moved away from there by as much.
    """
    sites = [entry.site for entry in plan.entries if not entry.site.is_weight]
    wanted = {site.id for site in sites if plan.bias_correction or (site.id in affines and affines[site.id].shifts)}
    learned = {name for entry in plan.entries if entry.site.id in rounded for name in entry.site.feeds}
    return {name: site.id for site in sites if site.id in wanted for name in site.feeds if name not in learned}


@dataclass(frozen=True)
class _Correction:
    """What the bias of each linear layer in `sites` lacks, by its site's tokens; `sizes`: how much that was."""

    sites: Mapping[str, str]
    statistics: Mapping[str, SiteStatistics]
    sizes: dict[str, float] = field(default_factory=dict)

    def __call__(self, linear: str, weight: FloatArray, quantized: FloatArray) -> FloatArray | None:
        """See `graph.quantize.BiasError`."""
        if linear not in self.sites:
            return None
        samples = self.statistics[self.sites[linear]].samples
        if samples is None:
            what = "calibration kept no tokens here, which the correction of biases needs"
            raise DataError(what, where=self.sites[linear], fix=TOKENS_FIX)
        error = bias_error(samples, weight, quantized)
        self.sizes[linear] = float(np.sqrt(np.mean(np.square(error))))
        return error
