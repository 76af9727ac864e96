"""Orders: one order of the hidden dimensions for a layer or for the model, from the ranges that were seen."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from qonnx_pipe.core.granularity import PerEmbeddingGroup
from qonnx_pipe.core.plan import PlanEntry, QuantPlan
from qonnx_pipe.core.site import STREAM_ROLES, Role, Site
from qonnx_pipe.core.statistics import CalibrationTable
from qonnx_pipe.observers.groups import range_order

Order = tuple[int, ...]


def shared_orders(plan: QuantPlan, table: CalibrationTable) -> Mapping[str, Order]:
    """The order of every site that shares one, by site id; `order[i]` is the dimension at place i, outliers last.

    `share: layer`: the tensors of a layer's residual stream take the order of its FFN output's ranges (Bondarenko et
    al. 2021, §4); other layers are left out. `share: model`, if one site wants it, and where layers share their
    weights, which can have one order only: all layers take the order of the largest range, over the sites that share
    it, of each dimension relative to the median of its site. Sites of another width have orders of their own.
    """
    asking = [
        entry.site for entry in plan.quantized if _shares(entry, "layer", "model") and entry.site.role in STREAM_ROLES
    ]
    asking = [site for site in asking if site.id in table.sites]
    if not asking:
        return {}
    stream = [
        entry.site for entry in plan.entries if entry.site.role in STREAM_ROLES and entry.site.width == asking[0].width
    ]
    tied = any(len(entry.site.feeds) > 1 for entry in plan.entries if entry.site.role is Role.WEIGHT)
    if tied or any(_shares(entry, "model") for entry in plan.quantized):
        order = _largest_relative(asking, table)
        return {site.id: order for site in stream}
    orders: dict[int | None, Order] = {site.layer: range_order(table.sites[site.id].minmax) for site in asking}
    for site in stream:
        if site.role is Role.FFN_OUTPUT and site.layer in orders and site.id in table.sites:
            orders[site.layer] = range_order(table.sites[site.id].minmax)
    return {site.id: orders[site.layer] for site in stream if site.layer in orders}


def _shares(entry: PlanEntry, *shares: str) -> bool:
    groups = None if entry.spec is None else entry.spec.granularity
    return isinstance(groups, PerEmbeddingGroup) and groups.permute == "range" and groups.share in shares


def _largest_relative(sites: list[Site], table: CalibrationTable) -> Order:
    largest = np.zeros(sites[0].width)
    for site in sites:
        seen = table.sites[site.id].minmax
        spread = seen.maximum.astype(np.float64) - seen.minimum
        median = float(np.median(spread))
        if np.isfinite(median) and median > 0 and len(spread) == len(largest):
            largest = np.maximum(largest, spread / median)
    return tuple(np.argsort(largest, kind="stable").tolist())
