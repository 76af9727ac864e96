"""Encodings: what a plan and a calibration say of each site, in numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from qonnx_pipe.core.encoding import Encoding, FloatArray
from qonnx_pipe.core.granularity import PerTensor
from qonnx_pipe.core.plan import PlanEntry
from qonnx_pipe.core.rounding import Codes, belong, is_rounding_of
from qonnx_pipe.core.statistics import CalibrationTable, SiteStatistics
from qonnx_pipe.errors import DataError
from qonnx_pipe.observers import OBSERVERS
from qonnx_pipe.observers.encode import CALIBRATE_TOKENS, encode_activation
from qonnx_pipe.observers.weights import encode_weight, quantize_weight

TOKENS_FIX = f"calibrate with this recipe, or with {CALIBRATE_TOKENS}"


def statistics_of(entry: PlanEntry, table: CalibrationTable) -> SiteStatistics:
    """What calibration saw at a site; DataError where the table lacks it."""
    site = entry.site.id
    if site not in table.sites:
        raise DataError(
            f"the calibration table has no statistics of {site}",
            where=table.provenance.model_sha256[:12],
            fix="calibrate this very model: `qpipe calibrate`",
        )
    return table.sites[site]


def samples_of(entry: PlanEntry, table: CalibrationTable) -> FloatArray:
    """Tokens (n, d) that calibration kept of a site; DataError where it kept none."""
    samples = statistics_of(entry, table).samples
    if samples is None:
        what = "calibration kept no tokens here, which the correction of biases needs"
        raise DataError(what, where=entry.site.id, fix=TOKENS_FIX)
    return samples


def encode(entry: PlanEntry, statistics: SiteStatistics, order: Sequence[int] | None = None) -> Encoding:
    """The encoding of an activation; DataError where calibration lacks what its range needs."""
    site, spec = entry.site.id, entry.spec
    assert spec is not None
    try:
        return encode_activation(statistics, spec, order, site=site)
    except ValueError as error:
        channels = "tensor" if isinstance(spec.granularity, PerTensor) else "embedding"
        histogram = f"`qpipe calibrate --histogram {channels}`"
        command = CALIBRATE_TOKENS if OBSERVERS[spec.range].requires == "samples" else histogram
        fix = f"calibrate with what range {spec.range!r} needs: {command}"
        raise DataError(str(error), where=site, fix=fix) from error


def encode_and_round(
    entry: PlanEntry,
    weight: npt.NDArray[np.generic],
    *,
    given: Mapping[str, Encoding],
    rounded: Mapping[str, Codes] | None,
) -> tuple[Encoding, npt.NDArray[np.generic]]:
    """Encoding of a weight, or what `given` has, and codes; DataError where learned ones in `rounded` do not fit."""
    site, spec = entry.site.id, entry.spec
    assert spec is not None
    encoding = given.get(site) or encode_weight(weight, spec, site=site)
    if spec.rounds_by_data and rounded is None:
        raise DataError("no learned codes", where=site, fix="`qpipe run` learns them; or use rounding: nearest")
    if not spec.rounds_by_data or rounded is None or site not in rounded:
        return encoding, quantize_weight(weight, encoding)
    fits = is_rounding_of if spec.rounding == "adaround" else belong
    if not fits(rounded[site], np.asarray(weight, np.float32), encoding):
        what = "the learned codes are of another weight, or its rows are scaled for a per-embedding activation"
        raise DataError(what, where=site, fix="learn them again, or give the weight rounding: nearest")
    return encoding, rounded[site]
