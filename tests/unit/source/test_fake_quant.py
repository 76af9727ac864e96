"""Fake quantization is the reference's, bit for bit, and its gradients are those of the papers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from qonnx_pipe.core.encoding import EmbeddingGroups, Encoding
from qonnx_pipe.core.granularity import (
    PerChannel,
    PerEmbeddingGroup,
    PerGroup,
    PerOutputGroup,
    PerTensor,
)
from qonnx_pipe.core.numerics import fake_quantize, scale_and_zero_point
from qonnx_pipe.core.qtype import QTYPES
from qonnx_pipe.core.spec import QuantSpec
from qonnx_pipe.observers.weights import encode_weight

torch = pytest.importorskip("torch")

from qonnx_pipe.source.fake_quant import FakeQuantizer  # noqa: E402 (it needs torch)

pytestmark = pytest.mark.export

GROUPED = [PerTensor(), PerChannel(1), PerChannel(0), PerGroup(0, 8), PerGroup(1, 4), PerOutputGroup(3)]
TYPES = [("int8", True), ("int4", True), ("int2", True), ("uint8", False), ("uint4", False), ("int3", False)]


def matrix(rows: int = 24, columns: int = 12, seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).normal(0.02, 0.1, (rows, columns))
    return (values * np.linspace(0.5, 3, columns)).astype(np.float32)


def disturbed(quantizer: Any, seed: int = 1) -> Any:
    """A quantizer after some learning: other scales, zero points that are no whole numbers."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in quantizer.parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return quantizer


@pytest.mark.parametrize(("dtype", "symmetric"), TYPES)
@pytest.mark.parametrize("granularity", GROUPED, ids=str)
@pytest.mark.parametrize("ranges", ["learned", "fixed", "current"])
def test_weights_are_quantized_as_in_numpy(granularity: Any, dtype: str, symmetric: bool, ranges: Any) -> None:
    weight = matrix()
    spec = QuantSpec(QTYPES[dtype], granularity, symmetric)
    quantizer = disturbed(FakeQuantizer(spec, encode_weight(0.8 * weight, spec), ranges))
    tensor = torch.from_numpy(weight)
    encoding = quantizer.encoding(tensor)
    assert np.array_equal(quantizer(tensor).detach().numpy(), fake_quantize(weight, encoding))
    ids = torch.tensor([[3, 0, 3], [23, 7, 1]])
    if granularity != PerGroup(0, 8):
        assert np.array_equal(
            quantizer.rows(tensor, ids).detach().numpy(), fake_quantize(weight, encoding)[ids.numpy()]
        )
    if ranges == "current":
        expected = encode_weight(weight, spec)
        assert np.array_equal(encoding.scale, expected.scale)
        assert np.array_equal(encoding.zero_point, expected.zero_point)


@pytest.mark.parametrize("groups", [None, (3, 5, 4)])
@pytest.mark.parametrize("symmetric", [False, True])
def test_activations_are_quantized_as_in_numpy(groups: Any, symmetric: bool) -> None:
    values = np.random.default_rng(2).normal(0.3, 1, (4, 7, 12)).astype(np.float32)
    dtype = QTYPES["int8" if symmetric else "uint8"]
    layout: Any = PerTensor()
    spec = QuantSpec(dtype, PerTensor() if groups is None else PerEmbeddingGroup(groups), symmetric)
    low, high = np.float32(-1), np.float32(2)
    if groups is not None:
        layout = EmbeddingGroups(groups, tuple(np.random.default_rng(3).permutation(12).tolist()))
        low, high = low * np.arange(1, 4), high * np.arange(1, 4)
    first = Encoding(dtype, layout, *scale_and_zero_point(low, high, dtype, symmetric=symmetric))
    quantizer = disturbed(FakeQuantizer(spec, first, "learned"))
    found = quantizer(torch.from_numpy(values)).detach().numpy()
    assert np.array_equal(found, fake_quantize(values, quantizer.encoding(torch.zeros(()))))
    assert not np.array_equal(found, fake_quantize(values, first))


def test_before_learning_the_encoding_is_the_first_one() -> None:
    spec = QuantSpec(QTYPES["uint4"], PerOutputGroup(3), symmetric=False)
    first = encode_weight(matrix(), spec)
    found = FakeQuantizer(spec, first, "learned").encoding(torch.zeros(()))
    assert np.array_equal(found.scale, first.scale)
    assert np.array_equal(found.zero_point, first.zero_point)


def test_gradients_of_lsq() -> None:
    """Esser et al. 2020, eq. 3 and 5, by hand: int4, s = 0.5, N = 4, Qn = −8, Qp = 7; growth is s·∂/∂s."""
    spec = QuantSpec(QTYPES["int4"], PerTensor(), symmetric=True)
    first = Encoding(spec.dtype, PerTensor(), np.float32(0.5), np.int32(0))
    quantizer = FakeQuantizer(spec, first, "learned")
    values = torch.tensor([0.6, -1.15, 9.0, -7.0], requires_grad=True)
    quantizer(values).backward(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    assert values.grad.tolist() == [1.0, 2.0, 0.0, 0.0]
    expected = 1 * (1 - 1.2) + 2 * (-2 + 2.3) + 3 * 7 + 4 * -8
    assert quantizer.growth.grad.item() == pytest.approx(0.5 * expected / np.sqrt(4 * 7), rel=1e-5)


def test_gradients_of_lsq_plus() -> None:
    """Bhalgat et al. 2020, eq. 3 to 5, by hand: uint4, s = 0.5, z = 3: Qn = −3, Qp = 12; shift counts in 15 levels."""
    spec = QuantSpec(QTYPES["uint4"], PerTensor(), symmetric=False)
    first = Encoding(spec.dtype, PerTensor(), np.float32(0.5), np.int32(3))
    quantizer = FakeQuantizer(spec, first, "learned")
    values = torch.tensor([0.6, -1.15, 9.0, -7.0], requires_grad=True)
    quantizer(values).backward(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    assert values.grad.tolist() == [1.0, 2.0, 0.0, 0.0]
    factor = 1 / np.sqrt(4 * 15)
    expected = 1 * (1 - 1.2) + 2 * (-2 + 2.3) + 3 * 12 + 4 * -3
    assert quantizer.growth.grad.item() == pytest.approx(0.5 * expected * factor, rel=1e-5)
    assert quantizer.shift.grad.item() == pytest.approx(15 * -0.5 * (3 + 4) * factor, rel=1e-5)


@pytest.mark.parametrize("granularity", GROUPED[:5], ids=str)
def test_each_group_has_its_own_gradient(granularity: Any) -> None:
    """The gradient of a group is that of a quantizer of that group alone."""
    weight, spec = matrix(), QuantSpec(QTYPES["int3"], granularity, symmetric=True)
    quantizer = FakeQuantizer(spec, encode_weight(0.7 * weight, spec), "learned")
    upstream = torch.from_numpy(matrix(seed=9))
    quantizer(torch.from_numpy(weight)).backward(upstream)
    places = np.arange(weight.size).reshape(weight.shape)
    match granularity:
        case PerTensor():
            mine = places
        case PerChannel(axis):
            mine = places.take(2, axis)
        case PerGroup(0, size):
            mine = places[size : 2 * size, 2]
        case PerGroup(_, size):
            mine = places[2, size : 2 * size]
    index: Any = {PerTensor(): (), PerChannel(0): 2, PerChannel(1): 2, PerGroup(0, 8): (1, 2)}.get(granularity, (2, 1))
    scale = np.float64(quantizer.scale.numpy()[index])
    steps, pulled = weight.ravel()[mine].astype(np.float64) / scale, upstream.numpy().ravel()[mine]
    error = np.where((steps >= -4) & (steps <= 3), np.rint(steps) - steps, np.clip(steps, -4, 3))
    expected = scale * (error * pulled).sum() / np.sqrt(mine.size * 3)
    assert quantizer.growth.grad.numpy()[index] == pytest.approx(expected, rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("symmetric", [True, False])
def test_a_planted_scale_is_found_again(symmetric: bool) -> None:
    """From a scale twice as large, and a zero point elsewhere, least squares lead back to the grid of the values."""
    dtype = QTYPES["int4" if symmetric else "uint4"]
    zero = 0 if symmetric else 5
    planted = Encoding(dtype, PerTensor(), np.float32(0.1), np.int32(zero))
    codes = np.random.default_rng(0).integers(dtype.qmin, dtype.qmax + 1, 2000)
    values = torch.from_numpy(((codes - zero) * 0.1).astype(np.float32))
    first = Encoding(dtype, PerTensor(), np.float32(0.13), np.int32(zero + (0 if symmetric else 2)))
    quantizer = FakeQuantizer(QuantSpec(dtype, PerTensor(), symmetric), first, "learned")
    optimizer = torch.optim.Adam(quantizer.parameters(), lr=0.01)
    for step in range(400):
        optimizer.param_groups[0]["lr"] = 0.01 * (1 - step / 400)
        optimizer.zero_grad()
        (quantizer(values) - values).square().mean().backward()
        optimizer.step()
    found = quantizer.encoding(values)
    assert found.scale == pytest.approx(float(planted.scale), rel=0.01)
    assert found.zero_point == planted.zero_point


def test_zero_stays_exact() -> None:
    spec = QuantSpec(QTYPES["uint8"], PerTensor(), symmetric=False)
    first = Encoding(spec.dtype, PerTensor(), np.float32(0.013), np.int32(77))
    quantizer = disturbed(FakeQuantizer(spec, first, "learned"))
    assert quantizer(torch.zeros(3)).tolist() == [0, 0, 0]
