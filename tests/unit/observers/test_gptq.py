"""GPTQ gives the codes of the paper's own elimination, makes up for errors, and survives degenerate Hessians."""

from dataclasses import replace

import numpy as np
import pytest

from qonnx_pipe.core.encoding import Encoding
from qonnx_pipe.core.granularity import PerChannel, PerGroup, PerTensor
from qonnx_pipe.core.qtype import QTYPES
from qonnx_pipe.observers.gptq import Settings, gptq

TOKENS, INPUTS, OUTPUTS = 400, 24, 5
WHOLE = PerTensor()
PAPER = Settings(relative=False, act_order=False)


def correlated(seed: int, tokens: int = TOKENS, inputs: int = INPUTS) -> np.ndarray:
    """Tokens whose dimensions go together, so that errors of weights can make up for each other."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=(tokens, 3)) @ np.random.default_rng(99).normal(size=(3, inputs))
    return (common + 0.3 * rng.normal(size=(tokens, inputs))).astype(np.float32)


def weight(inputs: int = INPUTS, outputs: int = OUTPUTS) -> np.ndarray:
    return np.random.default_rng(7).normal(0, 0.3, (inputs, outputs)).astype(np.float32)


def encoding(dtype: str = "int4", granularity=WHOLE) -> Encoding:
    """Scales around 0.1 in any layout."""
    shape = {"per_tensor": (), "per_channel": (OUTPUTS,)}.get(str(granularity))
    if shape is None:
        shape = (INPUTS // granularity.size, OUTPUTS)
    scale = np.random.default_rng(3).uniform(0.08, 0.12, shape).astype(np.float32)
    kind = QTYPES[dtype]
    return Encoding(kind, granularity, scale, np.full(shape, 0 if kind.signed else kind.qmax // 2, np.int32))


def steps(found: Encoding, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Scale and zero point of each element [rows, OUTPUTS]."""
    if isinstance(found.granularity, PerGroup):
        size = found.granularity.size
        return np.repeat(found.scale, size, axis=0), np.repeat(found.zero_point, size, axis=0)
    scale = np.broadcast_to(found.scale, (rows, OUTPUTS))
    return scale, np.broadcast_to(found.zero_point, (rows, OUTPUTS))


def real(codes: np.ndarray, found: Encoding) -> np.ndarray:
    scale, zero = steps(found, len(codes))
    return scale * (codes.astype(np.float64) - zero)


def eliminated(matrix: np.ndarray, found: Encoding, inputs: np.ndarray, order: list[int], damp: float) -> np.ndarray:
    """Optimal Brain Quantization in a fixed order (Frantar et al. 2022, eq. 2 and 3), column by column.

    The inverse Hessian of the inputs still open is inverted anew each time.
    """
    hessian = inputs.astype(np.float64).T @ inputs / len(inputs)
    hessian += damp * np.mean(np.diag(hessian)) * np.eye(len(hessian))
    scale, zero = steps(found, len(matrix))
    codes = np.zeros(matrix.shape, np.int64)
    for column in range(matrix.shape[1]):
        left = matrix[:, column].astype(np.float64)
        for place, row in enumerate(order):
            still = order[place:]
            inverse = np.linalg.inv(hessian[np.ix_(still, still)])
            code = np.round(left[row] / scale[row, column]) + zero[row, column]
            codes[row, column] = min(max(code, found.dtype.qmin), found.dtype.qmax)
            error = left[row] - (codes[row, column] - zero[row, column]) * scale[row, column]
            left[still] -= error / inverse[0, 0] * inverse[:, 0]
    return codes


def squared_error(inputs: np.ndarray, found: np.ndarray, targets: np.ndarray) -> float:
    return float(np.square(inputs @ found - targets).sum())


@pytest.mark.parametrize("dtype", ["int2", "int3", "uint4", "int8"])
@pytest.mark.parametrize("granularity", [PerTensor(), PerChannel(1), PerGroup(0, 8)], ids=str)
@pytest.mark.parametrize("act_order", [False, True])
def test_the_codes_are_those_of_the_paper(granularity, dtype: str, act_order: bool, monkeypatch) -> None:
    """Over several blocks; outputs that nearest rounding serves better are left aside."""
    monkeypatch.setattr("qonnx_pipe.observers.gptq.BLOCK", 7)
    matrix, inputs, layout = weight(), correlated(0), encoding(dtype, granularity)
    settings = replace(PAPER, act_order=act_order)
    found = gptq(matrix, layout, inputs, inputs @ matrix, settings)
    power = np.square(inputs).sum(axis=0)
    order = sorted(range(INPUTS), key=lambda row: -power[row]) if act_order else list(range(INPUTS))
    expected = eliminated(matrix, layout, inputs, order, settings.damp)
    scale, zero = steps(layout, INPUTS)
    nearest = np.clip(np.round(matrix / scale) + zero, layout.dtype.qmin, layout.dtype.qmax)
    errors = [np.square(inputs @ (real(codes, layout) - matrix)).sum(axis=0) for codes in (expected, nearest)]
    np.testing.assert_array_equal(found.codes, np.where(errors[0] <= errors[1], expected, nearest))
    assert found.codes.dtype == layout.dtype.storage
    assert np.any(errors[0] < errors[1])


def test_the_output_on_other_tokens_comes_closer_than_with_nearest_rounding() -> None:
    matrix, layout, here, there = weight(), encoding(), correlated(0), correlated(1)
    found = gptq(matrix, layout, here, here @ matrix, Settings())
    nearest = layout.scale * np.clip(np.rint(matrix / layout.scale), -8, 7)
    before = squared_error(there, nearest, there @ matrix)
    after = squared_error(there, real(found.codes, layout), there @ matrix)
    assert after < 0.25 * before  # 6 dB
    assert found.error < 0.25 * found.nearest_error
    assert found.changed == np.mean(~np.isclose(real(found.codes, layout), nearest))
    assert found.note == ""


def test_it_makes_up_for_inputs_that_are_off_already() -> None:
    matrix, layout, exact = weight(), encoding(), correlated(0)
    off = exact * np.float32(1.1)
    settings = Settings(relative=False)
    found = gptq(matrix, layout, off, exact @ matrix, settings)
    blind = gptq(matrix, layout, off, off @ matrix, settings)
    reached, blindly = (squared_error(off, real(each.codes, layout), exact @ matrix) for each in (found, blind))
    assert reached < 0.7 * blindly


def test_the_error_that_it_tells_is_the_layers() -> None:
    matrix, layout, exact = weight(), encoding(), correlated(0)
    targets = exact @ matrix
    found = gptq(matrix, layout, exact * np.float32(1.05), targets, Settings(relative=False))
    expected = squared_error(exact * np.float32(1.05), real(found.codes, layout), targets) / np.square(targets).sum()
    assert found.error == pytest.approx(expected, rel=1e-4)


def test_a_few_huge_tokens_do_not_decide_alone() -> None:
    matrix, layout, inputs = weight(), encoding(), correlated(0)
    huge = np.random.default_rng(5).normal(0, 300, (8, INPUTS)).astype(np.float32)
    seen = np.concatenate([inputs, huge])
    errors = {}
    for relative in (True, False):
        found = gptq(matrix, layout, seen, seen @ matrix, Settings(relative=relative))
        errors[relative] = squared_error(inputs, real(found.codes, layout), inputs @ matrix)
    assert errors[True] < 0.8 * errors[False]


def test_inputs_that_are_always_zero_keep_their_nearest_codes() -> None:
    matrix, layout, inputs = weight(), encoding(), correlated(0)
    inputs[:, [3, 17]] = 0
    found = gptq(matrix, layout, inputs, inputs @ matrix, Settings())
    nearest = np.clip(np.rint(matrix / layout.scale), -8, 7)
    np.testing.assert_array_equal(found.codes[[3, 17]], nearest[[3, 17]])
    assert "2 inputs are always 0" in found.note
    assert found.error < 0.5 * found.nearest_error


def test_a_layer_that_reads_nothing_but_zero_keeps_nearest() -> None:
    nothing = np.zeros((9, INPUTS), np.float32)
    found = gptq(weight(), encoding(), nothing, nothing @ weight(), Settings())
    np.testing.assert_array_equal(found.codes, np.clip(np.rint(weight() / encoding().scale), -8, 7))
    assert "all inputs are 0" in found.note


def test_a_hessian_that_is_not_positive_definite_is_damped_until_it_is() -> None:
    inputs = np.repeat(correlated(0, inputs=INPUTS // 2), 2, axis=1)  # every input twice
    found = gptq(weight(), encoding(), inputs, inputs @ weight(), replace(PAPER, damp=0.0))
    assert "not positive definite: damped by" in found.note
    assert found.error < 0.5 * found.nearest_error


def test_fewer_tokens_than_inputs_are_enough() -> None:
    inputs = correlated(0, tokens=6)
    found = gptq(weight(), encoding(), inputs, inputs @ weight(), Settings())
    assert found.error < found.nearest_error
    assert found.note == ""


def test_a_weight_that_is_exact_stays() -> None:
    step = np.float32(0.125)
    layout = Encoding(QTYPES["int4"], PerTensor(), step, np.int32(0))
    matrix = (step * np.random.default_rng(0).integers(-8, 8, (INPUTS, OUTPUTS))).astype(np.float32)
    found = gptq(matrix, layout, correlated(0), correlated(0) @ matrix, Settings())
    np.testing.assert_array_equal(step * found.codes.astype(np.float32), matrix)
    assert (found.changed, found.error) == (0, pytest.approx(0, abs=1e-9))


def test_it_is_deterministic_and_blocks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix, inputs = weight(), correlated(0)
    whole = gptq(matrix, encoding(), inputs, inputs @ matrix, Settings())
    monkeypatch.setattr("qonnx_pipe.observers.gptq.BLOCK", 5)
    parts = gptq(matrix, encoding(), inputs, inputs @ matrix, Settings())
    np.testing.assert_array_equal(whole.codes, parts.codes)
