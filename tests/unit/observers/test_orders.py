"""Shared orders: one a layer from its FFN output, or one for the model; outliers stand last."""

from __future__ import annotations

import numpy as np
import pytest

from qonnx_pipe.core.granularity import PerEmbeddingGroup, Share
from qonnx_pipe.core.plan import PlanEntry, QuantPlan
from qonnx_pipe.core.qtype import QTYPES
from qonnx_pipe.core.site import Role, Site
from qonnx_pipe.core.spec import QuantSpec
from qonnx_pipe.core.statistics import CalibrationTable, MinMax, Provenance, SiteStatistics
from qonnx_pipe.observers.orders import shared_orders

SPREADS = {
    "layer.0/ffn.input": [1, 9, 1, 2],
    "layer.0/ffn.output": [1, 2, 8, 3],
    "layer.1/ffn.input": [30, 10, 10, 10],
    "layer.1/ffn.output": [4, 3, 2, 1],
}
ROLES = (Role.FFN_INPUT, Role.FFN_OUTPUT, Role.RESIDUAL_SUM)


def table() -> CalibrationTable:
    seen = {
        site: SiteStatistics(MinMax(-0.5 * np.float32(spread), 0.5 * np.float32(spread)))
        for site, spread in SPREADS.items()
    }
    return CalibrationTable(seen, Provenance("", "", 1, 1, 1, 1, 1))


def plan(share: Share, asking: tuple[str, ...] = ("layer.0/ffn.input", "layer.1/ffn.input"), *, tied: bool = False):
    spec = QuantSpec(QTYPES["uint8"], PerEmbeddingGroup(2, "range", share), False)
    sites = [Site(f"layer.{layer}/{role}", role, layer, f"t{layer}{role}", 4) for layer in (0, 1) for role in ROLES]
    sites.append(Site("layer.0/ffn.activation", Role.FFN_ACTIVATION, 0, "g", 16))
    weight = Site("w", Role.WEIGHT, 0, "w", 4, ("first", "second") if tied else ("first",))
    entries = [PlanEntry(site, spec if site.id in asking else None, "split", "r") for site in (*sites, weight)]
    return QuantPlan("cpu", "matmul_inputs", tuple(entries))


def test_a_layer_takes_the_order_of_its_ffn_output() -> None:
    orders = shared_orders(plan("layer"), table())
    assert set(orders) == {f"layer.{layer}/{role}" for layer in (0, 1) for role in ROLES}
    assert {site: orders[site] for site in ("layer.0/ffn.input", "layer.0/residual.sum", "layer.1/ffn.output")} == {
        "layer.0/ffn.input": (0, 1, 3, 2),
        "layer.0/residual.sum": (0, 1, 3, 2),
        "layer.1/ffn.output": (3, 2, 1, 0),
    }


def test_layers_that_do_not_ask_are_left_out() -> None:
    assert {site[:7] for site in shared_orders(plan("layer", ("layer.1/ffn.input",)), table())} == {"layer.1"}


@pytest.mark.parametrize(("share", "tied"), [("model", False), ("model", True), ("layer", True)])
def test_the_model_takes_the_largest_relative_range(share: Share, *, tied: bool) -> None:
    orders = shared_orders(plan(share, tied=tied), table())
    # Medians 1.5 and 10: the relative ranges are (0.67, 6, 0.67, 1.33) and (3, 1, 1, 1).
    assert set(orders.values()) == {(2, 3, 0, 1)}
    assert len(orders) == 6


@pytest.mark.parametrize("given", [plan("site"), plan("model", ())])
def test_without_a_wish_there_is_no_order(given: QuantPlan) -> None:
    assert shared_orders(given, table()) == {}
