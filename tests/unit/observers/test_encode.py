"""From statistics to encodings: what calibration is asked for, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from qonnx_pipe.core.encoding import EmbeddingGroups
from qonnx_pipe.core.granularity import Granularity, PerChannel, PerEmbedding, PerEmbeddingGroup, PerTensor
from qonnx_pipe.core.plan import PlanEntry, QuantPlan
from qonnx_pipe.core.qtype import QTYPES
from qonnx_pipe.core.site import Role, Site
from qonnx_pipe.core.spec import QuantSpec, RangeMethod
from qonnx_pipe.core.statistics import MinMax, Request, Requests, RunningMinMax, SiteStatistics
from qonnx_pipe.errors import NumericsError
from qonnx_pipe.observers.encode import SAMPLED_TOKENS, encode_activation, requests

SEEN = SiteStatistics(MinMax(np.float32([-1, -2, -4, 0]), np.float32([1, 0, 0, 25.5])))


def spec(
    granularity: Granularity | None = None, method: RangeMethod = "minmax", *, symmetric: bool = False
) -> QuantSpec:
    return QuantSpec(QTYPES["uint8"], granularity or PerTensor(), symmetric, method)


def test_per_tensor() -> None:
    encoding = encode_activation(SEEN, spec(), site="x")
    assert encoding.granularity == PerTensor()
    assert encoding.scale == np.float32(29.5 / 255)
    assert encoding.zero_point == round(4 / (29.5 / 255))


def test_groups_follow_the_spec() -> None:
    encoding = encode_activation(SEEN, spec(PerEmbeddingGroup(2, "range"), symmetric=True), site="x")
    assert encoding.granularity == EmbeddingGroups((2, 2), (0, 1, 2, 3))
    np.testing.assert_array_equal(encoding.scale, np.float32([2 / 127, 25.5 / 127]))
    assert encoding.zero_point.tolist() == [128, 128]


def test_a_shared_order_stands_for_the_sites_own() -> None:
    encoding = encode_activation(SEEN, spec(PerEmbeddingGroup((1, 3), "range")), (3, 0, 1, 2), site="x")
    assert encoding.granularity == EmbeddingGroups((1, 3), (3, 0, 1, 2))
    np.testing.assert_array_equal(encoding.scale, np.float32([25.5 / 255, 5 / 255]))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("granularity", [PerTensor(), PerEmbedding(), PerEmbeddingGroup(2, "range")])
def test_nan_and_infinity_name_the_site(bad: float, granularity: Granularity) -> None:
    seen = SiteStatistics(MinMax(np.float32([-1, bad, -2, -3]), np.float32([1, bad, 2, 3])))
    with pytest.raises(NumericsError) as caught:
        encode_activation(seen, spec(granularity), site="layer.3/ffn.output")
    assert caught.value.where == "layer.3/ffn.output"
    assert caught.value.fix


def test_nan_in_the_running_average_is_refused() -> None:
    bad = RunningMinMax.first(MinMax(np.float32([np.nan]), np.float32([1])))
    with pytest.raises(NumericsError, match="NaN"):
        encode_activation(SiteStatistics(SEEN.minmax, bad), spec(method="running_minmax"), site="x")


def test_no_data_at_all_is_refused() -> None:
    nothing = SiteStatistics(MinMax(np.float32([np.inf]), np.float32([-np.inf])))
    with pytest.raises(NumericsError):
        encode_activation(nothing, spec(), site="x")


@pytest.mark.parametrize(
    "method", ["running_minmax", "mse", "mse_grid", "golden_section", "percentile", "entropy", "cross_entropy"]
)
def test_missing_statistics_are_refused(method: RangeMethod) -> None:
    with pytest.raises(ValueError, match="calibration collected no"):
        encode_activation(SEEN, spec(method=method), site="x")


def test_activations_have_no_channels() -> None:
    with pytest.raises(ValueError, match="x: activations have no granularity per_channel"):
        encode_activation(SEEN, spec(PerChannel(1)), site="x")


def test_requests_ask_for_what_each_spec_needs() -> None:
    wanted: list[tuple[str, QuantSpec | None]] = [
        ("plain", spec()),
        ("running", spec(method="running_minmax")),
        ("tensor", spec(method="mse")),
        ("float", None),
        ("grouped", replace(spec(PerEmbeddingGroup(2), "percentile"), form="split")),
        ("each", replace(spec(PerEmbedding(), "entropy"), form="reference")),
    ]
    entries = [PlanEntry(Site(name, Role.FFN_INPUT, 0, name, 4), found, "qdq", "r") for name, found in wanted]
    weight = PlanEntry(Site("w", Role.WEIGHT, 0, "w", 4), spec(PerChannel(1), "mse"), "qdq", "weights")
    assert requests(QuantPlan("cpu", "full", (weight, *entries))) == Requests(
        (
            Request("plain"),
            Request("running", running=True),
            Request("tensor", histogram="tensor"),
            Request("grouped", histogram="embedding"),
            Request("each", histogram="embedding"),
        )
    )


def linear(name: str, found: QuantSpec | None, *, feeds: bool = True) -> PlanEntry:
    return PlanEntry(Site(name, Role.FFN_INPUT, 0, name, 4, ("MatMul",) if feeds else ()), found, "qdq", "r")


def sampled(plan: QuantPlan) -> dict[str, int]:
    return {request.site: request.samples for request in requests(plan).items}


WEIGHT = PlanEntry(Site("w", Role.WEIGHT, 0, "w", 4), spec(PerChannel(1)), "qdq", "weights")
PLAIN = (WEIGHT, linear("x", spec()), linear("float", None), linear("sum", spec(), feeds=False))
COMPARING: dict[str, QuantSpec] = {
    "smooth": replace(spec(), smooth=0.5),
    "shift": replace(spec(), shift=True),
    "fold": replace(spec(), form="fold"),
    "expand": replace(spec(), form="expand"),
    "open groups": spec(PerEmbeddingGroup(2)),
    "open dimensions": spec(PerEmbedding()),
    "boundaries": replace(spec(PerEmbeddingGroup(2, boundaries="error")), form="split"),
    "cross-entropy": spec(method="cross_entropy"),
}


def test_plain_plans_need_no_tokens() -> None:
    split = replace(spec(PerEmbeddingGroup(2, "range")), form="split")
    plan = QuantPlan("cpu", "full", (*PLAIN, linear("g", split), linear("c", replace(spec(), form="float"))))
    assert set(sampled(plan).values()) == {0}
    assert "float" not in sampled(plan)


@pytest.mark.parametrize("name", COMPARING)
def test_one_spec_that_compares_outputs_needs_tokens_of_every_linears_input(name: str) -> None:
    plan = QuantPlan("cpu", "full", (*PLAIN, linear("itself", COMPARING[name], feeds=False)))
    assert sampled(plan) == {"x": SAMPLED_TOKENS, "float": SAMPLED_TOKENS, "sum": 0, "itself": SAMPLED_TOKENS}
    assert requests(plan).samples == SAMPLED_TOKENS


def test_rounding_and_bias_correction_need_tokens_of_inputs_that_stay_float_too() -> None:
    rounded = replace(WEIGHT, spec=replace(spec(PerChannel(1)), rounding="adaround"))
    expected = {"x": SAMPLED_TOKENS, "float": SAMPLED_TOKENS, "sum": 0}
    assert sampled(QuantPlan("cpu", "full", (rounded, *PLAIN[1:]))) == expected
    assert sampled(QuantPlan("cpu", "full", PLAIN, bias_correction=True)) == expected


@pytest.mark.parametrize("name", ["smooth", "shift", "fold", "open dimensions"])
def test_a_fold_needs_tokens_of_every_tensor_whose_histogram_it_may_move(name: str) -> None:
    """A fold of the context rescales the values, and a shift moves an FFN's output: both take new histograms."""
    moved = (linear("itself", COMPARING[name]), linear("values", spec(method="mse"), feeds=False))
    scores = PlanEntry(Site("s", Role.ATTENTION_SCORES, 0, "s", 4, pairwise=True), spec(method="mse"), "qdq", "r")
    found = sampled(QuantPlan("cpu", "full", (*PLAIN, *moved, scores)))
    assert (found["values"], found["sum"], found["s"]) == (SAMPLED_TOKENS, 0, 0)


def test_columns_move_no_histogram() -> None:
    values = linear("values", spec(method="mse"), feeds=False)
    assert sampled(QuantPlan("cpu", "full", (*PLAIN, linear("x", COMPARING["expand"]), values)))["values"] == 0
