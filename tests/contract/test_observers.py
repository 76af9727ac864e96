"""What every observer promises: a range inside what was seen, around zero, whatever the batches were."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from qonnx_pipe.core.encoding import EmbeddingGroups
from qonnx_pipe.core.granularity import Granularity, PerEmbedding, PerEmbeddingGroup, PerTensor
from qonnx_pipe.core.numerics import fake_quantize
from qonnx_pipe.core.qtype import QTYPES
from qonnx_pipe.core.sampling import sampled_examples
from qonnx_pipe.core.spec import QuantSpec, RangeMethod
from qonnx_pipe.core.statistics import Histogram, MinMax, RunningMinMax, SiteStatistics
from qonnx_pipe.errors import NumericsError
from qonnx_pipe.observers import OBSERVERS
from qonnx_pipe.observers.encode import encode_activation
from qonnx_pipe.observers.groups import resolve_groups

WIDTH = 6
SAMPLED = 60
"""Rows kept as samples, each row counting as an example."""

GRANULARITIES: dict[str, Granularity] = {
    "tensor": PerTensor(),
    "groups": PerEmbeddingGroup((3, 2, 1), "range"),
    "embedding": PerEmbedding(),
}


def tokens(name: str) -> np.ndarray:
    """Activations [tokens, WIDTH] of one character."""
    values = np.random.default_rng(5).standard_normal((300, WIDTH)).astype(np.float32)
    match name:
        case "outliers":
            values[:, 4] *= 40
            values[3, 2] = -90
        case "positive":
            values = np.abs(values) + 1
        case "negative":
            values = -np.abs(values) - 1
        case "constant":
            values[...] = 2.5
        case "zeros":
            values[...] = 0
        case "huge":
            values *= 1e8  # beyond the last bin
        case "tiny":
            values *= 1e-8  # all in the zero bin
    return values


DATA = ["normal", "outliers", "positive", "negative", "constant", "zeros", "huge", "tiny"]


def collect(batches: Sequence[np.ndarray], channels: str) -> SiteStatistics:
    """What calibration collects from batches, in their order."""
    extremes = [MinMax(batch.min(axis=0), batch.max(axis=0)) for batch in batches]
    minmax, running = extremes[0], RunningMinMax.first(extremes[0])
    histogram = Histogram.of(batches[0], per_embedding=channels == "embedding")
    for batch, extreme in zip(batches[1:], extremes[1:], strict=True):
        minmax, running = minmax.merge(extreme), running.update(extreme)
        histogram = histogram.merge(Histogram.of(batch, per_embedding=channels == "embedding"))
    rows = np.concatenate(batches)
    samples = rows[sampled_examples(len(rows), 0, len(rows), SAMPLED)[:, 0]]
    return SiteStatistics(minmax, running, histogram, samples)


WHOLE_TENSORS_ONLY: set[RangeMethod] = {"cross_entropy"}
CASES = [
    (name, layout)
    for name in OBSERVERS
    for layout in GRANULARITIES
    if layout == "tensor" or name not in WHOLE_TENSORS_ONLY
]


@pytest.fixture(params=CASES, ids="-".join)
def case(request: pytest.FixtureRequest) -> tuple[RangeMethod, str]:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(params=["symmetric", "asymmetric"])
def spec(request: pytest.FixtureRequest, case: tuple[RangeMethod, str]) -> QuantSpec:
    method, layout = case
    symmetric = request.param == "symmetric"
    return QuantSpec(QTYPES["int8" if symmetric else "uint8"], GRANULARITIES[layout], symmetric, method)


def ranges(batches: Sequence[np.ndarray], spec: QuantSpec) -> tuple[np.ndarray, np.ndarray, EmbeddingGroups | None]:
    """Range of the tensor or of each group, and the groups."""
    statistics = collect(batches, "tensor" if spec.granularity == PerTensor() else "embedding")
    grouped = isinstance(spec.granularity, PerEmbedding | PerEmbeddingGroup)
    groups = resolve_groups(spec.granularity, statistics.minmax) if grouped else None
    return *OBSERVERS[spec.range].range(statistics, spec, groups), groups


@pytest.mark.parametrize("data", DATA)
def test_range_holds_zero_inside_what_was_seen(data: str, spec: QuantSpec) -> None:
    values = tokens(data)
    low, high, groups = ranges([values], spec)
    members = [np.arange(WIDTH)]
    if groups is not None:
        members = [np.flatnonzero(groups.group_of_dimension() == k) for k in range(len(groups.sizes))]
    shape = () if groups is None else (len(members),)
    assert low.shape == high.shape == shape
    for dims, below, above in zip(members, low.ravel(), high.ravel(), strict=True):
        assert min(float(values[:, dims].min()), 0.0) <= below <= 0.0 <= above <= max(float(values[:, dims].max()), 0.0)


@pytest.mark.parametrize("data", DATA)
def test_encoding_is_usable(data: str, spec: QuantSpec) -> None:
    values = tokens(data)
    statistics = collect([values], "embedding")
    encoding = encode_activation(statistics, spec, site="x")
    back = fake_quantize(values, encoding)
    assert np.all(np.isfinite(back))
    if data in ("constant", "zeros"):
        # One value, at the end of the range or at zero: rounding noise of the scale alone; a histogram range may end
        # anywhere in the value's bin, which is 2^-4 wide.
        np.testing.assert_allclose(back, values, rtol=2.0**-4)


def test_order_and_cut_of_the_data_matter_only_where_declared(spec: QuantSpec) -> None:
    rng, values = np.random.default_rng(1), tokens("outliers")
    places = np.sort(rng.choice(np.arange(1, len(values)), 20, replace=False))
    shuffled = np.split(values[rng.permutation(len(values))], places)
    found, expected = (np.stack(ranges(batches, spec)[:2]) for batches in (shuffled, [values]))
    assert np.array_equal(found, expected) == OBSERVERS[spec.range].order_independent


def test_scaled_data_give_the_scaled_range(spec: QuantSpec) -> None:
    """A power of two moves every value by whole octaves of bins; only the zero bin (|x| < 2^-20) does not move."""
    if spec.range == "cross_entropy":
        pytest.skip("a softmax of scaled logits is another one")
    values = tokens("outliers")
    values[np.abs(values) < 1e-3] = 1e-3
    for found, expected in zip(ranges([values * 8], spec)[:2], ranges([values], spec)[:2], strict=True):
        np.testing.assert_allclose(found, expected * 8, rtol=1e-9)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_and_infinity_are_refused(spec: QuantSpec, bad: float) -> None:
    values = tokens("normal")
    values[17, 4] = bad
    with pytest.raises(NumericsError):
        encode_activation(collect([values], "embedding"), spec, site="x")


def test_the_same_statistics_give_the_same_bits_again(spec: QuantSpec) -> None:
    statistics = collect([tokens("outliers")], "tensor" if spec.granularity == PerTensor() else "embedding")
    first, second = (encode_activation(statistics, spec, site="x") for _ in range(2))
    assert first.scale.tobytes() == second.scale.tobytes()
    assert first.zero_point.tobytes() == second.zero_point.tobytes()


@pytest.mark.parametrize("method", sorted(WHOLE_TENSORS_ONLY))
@pytest.mark.parametrize("layout", ["groups", "embedding"])
def test_groups_are_refused_where_only_whole_tensors_make_sense(method: RangeMethod, layout: str) -> None:
    spec = QuantSpec(QTYPES["uint8"], GRANULARITIES[layout], symmetric=False, range=method)
    with pytest.raises(ValueError, match="per_tensor only"):
        ranges([tokens("normal")], spec)
