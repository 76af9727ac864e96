"""Quantize: a float model, a plan and a calibration table → the quantized model and its encodings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from qonnx_pipe import __version__
from qonnx_pipe.core.encoding import Encoding, FloatArray
from qonnx_pipe.core.granularity import PerTensor
from qonnx_pipe.core.plan import PlanEntry, QuantPlan
from qonnx_pipe.core.statistics import CalibrationTable, SiteStatistics
from qonnx_pipe.errors import DataError
from qonnx_pipe.graph import io
from qonnx_pipe.graph.quantize import quantize
from qonnx_pipe.graph.smooth import Smoothing, smooth
from qonnx_pipe.observers.encode import encode_activation
from qonnx_pipe.observers.weights import encode_weight, quantize_weight


@dataclass(frozen=True)
class Encodings:
    """Every encoding of a quantized model, by site id.

    `smoothing`: what each dimension of a site was divided by before its encoding holds, shape (d,).
    """

    activations: Mapping[str, Encoding]
    weights: Mapping[str, Encoding]
    smoothing: Mapping[str, FloatArray]

    def to_json(self) -> dict[str, object]:
        """Plain values for `encodings.json`."""
        return {
            "version": 1,
            "activations": {site: encoding.to_json() for site, encoding in self.activations.items()},
            "weights": {site: encoding.to_json() for site, encoding in self.weights.items()},
            "smoothing": {site: scale.astype(np.float64).tolist() for site, scale in self.smoothing.items()},
        }


def quantize_stage(
    model: Path, plan: QuantPlan, table: CalibrationTable, target: Path, *, metadata: Mapping[str, str] | None = None
) -> Encodings:
    """Write the quantized model to `target`; its graph inputs, outputs and metadata stay those of the float model.

    `metadata` is added to the file's own. Raises DataError when the table lacks a site or a statistic of the plan,
    NumericsError for NaN in weights or statistics, and what `io.load` and `io.save` raise.
    """
    loaded = io.load(model)
    wanted = [entry for entry in plan.quantized if not entry.site.is_weight]
    statistics = {entry.site.id: _statistics(entry, table) for entry in wanted}
    scales = smooth(loaded, [_smoothing(entry, statistics) for entry in wanted if entry.spec and entry.spec.smooth])
    statistics |= {site: statistics[site].divided(scale) for site, scale in scales.items()}
    activations = {entry.site.id: _encode(entry, statistics[entry.site.id]) for entry in wanted}
    weights = quantize(loaded, plan, activations, _weight)
    loaded.producer_name, loaded.producer_version = "qonnx-pipe", __version__
    loaded.metadata_props.update(metadata or {})
    io.save(loaded, target)
    return Encodings(activations, weights, scales)


def _statistics(entry: PlanEntry, table: CalibrationTable) -> SiteStatistics:
    site = entry.site.id
    if site not in table.sites:
        raise DataError(
            f"the calibration table has no statistics of {site}",
            where=table.provenance.model_sha256[:12],
            fix="calibrate this very model: `qpipe calibrate`",
        )
    return table.sites[site]


def _smoothing(entry: PlanEntry, statistics: Mapping[str, SiteStatistics]) -> Smoothing:
    assert entry.spec is not None
    seen = statistics[entry.site.id]
    bounds = seen.running if entry.spec.range == "running_minmax" and seen.running else seen.minmax
    magnitude = np.maximum(np.abs(bounds.minimum), np.abs(bounds.maximum))
    return Smoothing(entry.site, entry.spec.smooth, magnitude)


def _encode(entry: PlanEntry, statistics: SiteStatistics) -> Encoding:
    site, spec = entry.site.id, entry.spec
    assert spec is not None
    try:
        return encode_activation(statistics, spec, site=site)
    except ValueError as error:
        channels = "tensor" if isinstance(spec.granularity, PerTensor) else "embedding"
        fix = f"calibrate with what range {spec.range!r} needs: `qpipe calibrate --histogram {channels}`"
        raise DataError(str(error), where=site, fix=fix) from error


def _weight(entry: PlanEntry, weight: npt.NDArray[np.generic]) -> tuple[Encoding, npt.NDArray[np.generic]]:
    assert entry.spec is not None
    encoding = encode_weight(weight, entry.spec, site=entry.site.id)
    return encoding, quantize_weight(weight, encoding)
