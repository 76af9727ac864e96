"""For an NPU: every tensor of a static graph gets a quantizer, from what calibration saw at the sites."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from qonnx_pipe.core.affine import Affine
from qonnx_pipe.core.encoding import EmbeddingGroups, Encoding
from qonnx_pipe.core.encodings import Encodings
from qonnx_pipe.core.granularity import PerTensor
from qonnx_pipe.core.numerics import dequantize
from qonnx_pipe.core.plan import PlanEntry, QuantPlan
from qonnx_pipe.core.site import EMBEDDING_TABLES, Role
from qonnx_pipe.core.statistics import CalibrationTable
from qonnx_pipe.errors import ModelError
from qonnx_pipe.graph import io
from qonnx_pipe.graph.npu import Range, Seen, quantize_for_npu
from qonnx_pipe.graph.npu.quantizers import Coded
from qonnx_pipe.observers.fold import bias_error
from qonnx_pipe.stages.quantize.encodings import encode, encode_and_round, samples_of, statistics_of


def quantize_npu(
    model: io.Model, plan: QuantPlan, table: CalibrationTable, *, given: Mapping[str, Encoding]
) -> Encodings:
    """Rewrite the loaded float `model` in place as `plan` says; errors as in `quantize_stage`, which saves it."""
    assert plan.shape is not None
    entries = [entry for entry in plan.quantized if not entry.site.is_weight]
    seen = {entry.site.tensor: _seen(entry, table, given) for entry in entries}
    layers = {name: entry for entry in plan.quantized if entry.site.role is Role.WEIGHT for name in entry.site.feeds}
    sources = {name: entry for entry in entries for name in entry.site.feeds}
    weights: dict[str, Encoding] = {}
    corrections: dict[str, float] = {}

    def weight(layer: str, matrix: npt.NDArray[np.generic], affine: Affine | None) -> Coded:
        if layer not in layers:
            fix = "export the model again: its linear layers are not those of the plan"
            raise ModelError("the plan knows no such linear layer", where=layer, fix=fix)
        encoding, codes = encode_and_round(layers[layer], matrix, given=given, rounded=None)
        weights[layers[layer].site.id] = encoding
        if not plan.bias_correction:
            return encoding, codes, None
        tokens = samples_of(sources[layer], table)
        tokens = tokens if affine is None else affine(tokens)
        missing = bias_error(tokens, np.asarray(matrix, np.float32), dequantize(codes, encoding))
        corrections[layer] = float(np.sqrt(np.mean(np.square(missing))))
        return encoding, codes, missing

    written = quantize_for_npu(model, plan.shape, seen, weight, bits=min(found.limits.bits for found in seen.values()))
    names = {entry.site.tensor: entry.site.id for entry in plan.quantized if entry.site.role is not Role.WEIGHT}
    tables = {entry.site.id for entry in plan.quantized if entry.site.role in EMBEDDING_TABLES}
    found = {names[tensor]: encoding for tensor, encoding in written.encodings.items() if tensor in names}
    return Encodings(
        {site: encoding for site, encoding in found.items() if site not in tables},
        weights | {site: encoding for site, encoding in found.items() if site in tables},
        {names[tensor]: affine for tensor, affine in written.folds.items()},
        corrections,
    )


def _seen(entry: PlanEntry, table: CalibrationTable, given: Mapping[str, Encoding]) -> Seen:
    assert entry.spec is not None
    statistics = statistics_of(entry, table)
    encoding = given.get(entry.site.id) or encode(entry, statistics)
    low, high = statistics.minmax.minimum, statistics.minmax.maximum
    bits = entry.spec.dtype.bits
    if entry.spec.granularity != PerTensor() and isinstance(encoding.granularity, EmbeddingGroups):
        groups = tuple(int(group) for group in encoding.granularity.group_of_dimension())
        return Seen(Range(float(low.min()), float(high.max()), bits), low, high, groups)
    ends = (np.asarray([entry.spec.dtype.qmin, entry.spec.dtype.qmax]) - encoding.zero_point) * encoding.scale
    return Seen(Range(float(ends[0]), float(ends[1]), bits), low, high)
