"""From statistics to encodings: what calibration is asked for, and what is refused."""

from __future__ import annotations

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
from qonnx_pipe.observers.encode import encode_activation, requests

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


def test_a_given_layout_overrides_the_specs_own() -> None:
    layout = EmbeddingGroups((1, 3), (3, 0, 1, 2))
    encoding = encode_activation(SEEN, spec(PerEmbeddingGroup(2, "range")), layout, site="x")
    assert encoding.granularity == layout
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


@pytest.mark.parametrize("method", ["running_minmax", "mse", "percentile", "entropy"])
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
        ("grouped", spec(PerEmbeddingGroup(2), "percentile")),
        ("each", spec(PerEmbedding(), "entropy")),
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
