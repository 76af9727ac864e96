"""Encodings: what a plan makes of the statistics of every activation that it quantizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from qonnx_pipe.core.encoding import Encoding
from qonnx_pipe.core.granularity import PerTensor
from qonnx_pipe.core.plan import PlanEntry, QuantPlan
from qonnx_pipe.core.spec import QuantSpec
from qonnx_pipe.core.statistics import CalibrationTable
from qonnx_pipe.errors import DataError
from qonnx_pipe.observers.encode import encode_activation
from qonnx_pipe.observers.orders import shared_orders


def encode(plan: QuantPlan, table: CalibrationTable) -> dict[str, Encoding]:
    """Encoding of each quantized activation by site id; DataError where the table lacks a site or a statistic."""
    found, orders = {}, shared_orders(plan, table)
    for entry in plan.quantized:
        if not entry.site.is_weight:
            assert entry.spec is not None
            try:
                found[entry.site.id] = encode_one(entry, entry.spec, table, orders)
            except ValueError as error:
                channels = "tensor" if isinstance(entry.spec.granularity, PerTensor) else "embedding"
                fix = f"calibrate with what range {entry.spec.range!r} needs: `qpipe calibrate --histogram {channels}`"
                raise DataError(str(error), where=entry.site.id, fix=fix) from error
    return found


def encode_one(
    entry: PlanEntry, spec: QuantSpec, table: CalibrationTable, orders: Mapping[str, Sequence[int]]
) -> Encoding:
    """Encoding of one activation under `spec`, its groups in the order that `orders` may share by site id.

    Raises DataError without statistics, ValueError where they do not suffice.
    """
    site = entry.site.id
    if site not in table.sites:
        raise DataError("the calibration table does not know this site", where=site, fix="calibrate this very model")
    return encode_activation(table.sites[site], spec, orders.get(site), site=site)
