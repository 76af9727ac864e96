"""AdaRound finds better roundings than nearest, whatever the granularity, and says how it went."""

from itertools import product

import numpy as np
import pytest

from qonnx_pipe.core.encoding import Encoding
from qonnx_pipe.core.granularity import PerChannel, PerGroup, PerTensor
from qonnx_pipe.core.qtype import QTYPES
from qonnx_pipe.source.adaround import Settings, learn_rounding

pytestmark = pytest.mark.export

TOKENS, INPUTS, OUTPUTS = 400, 24, 5
SHORT = Settings(iterations=1000, relative=False)
STEP = np.float32(0.1)


def correlated(seed: int, tokens: int = TOKENS, inputs: int = INPUTS) -> np.ndarray:
    """Tokens whose dimensions go together, so that errors of weights can make up for each other."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=(tokens, 3)) @ np.random.default_rng(99).normal(size=(3, inputs))
    return (common + 0.3 * rng.normal(size=(tokens, inputs))).astype(np.float32)


def weight(inputs: int = INPUTS, outputs: int = OUTPUTS) -> np.ndarray:
    return np.random.default_rng(7).normal(0, 0.3, (inputs, outputs)).astype(np.float32)


def one_step(dtype: str = "int4", zero: int = 0) -> Encoding:
    return Encoding(QTYPES[dtype], PerTensor(), STEP, np.int32(zero))


def nearest(values: np.ndarray, low: int = -8, high: int = 7) -> np.ndarray:
    return STEP * np.clip(np.rint(values / STEP), low, high)


def squared_error(inputs: np.ndarray, found: np.ndarray, targets: np.ndarray) -> float:
    return float(np.square(inputs @ found - targets).sum())


def test_the_output_on_other_tokens_comes_closer_than_with_nearest_rounding() -> None:
    matrix, here, there = weight(), correlated(0), correlated(1)
    found = learn_rounding(matrix, one_step(), here, here @ matrix, SHORT)
    before = squared_error(there, nearest(matrix), there @ matrix)
    after = squared_error(there, STEP * found.codes.astype(np.float32), there @ matrix)
    assert after < 0.5 * before  # 3 dB
    assert found.undecided < 0.05
    assert found.error < 0.5 * found.nearest_error
    assert found.changed == np.mean(STEP * found.codes != nearest(matrix))
    assert 0.02 < found.changed < 0.6


def test_what_it_finds_is_close_to_the_best_of_all_roundings() -> None:
    matrix, inputs = weight(10, 1), correlated(0, inputs=10)
    down = np.floor(matrix[:, 0] / STEP)
    corners = STEP * np.asarray([down + np.asarray(up) for up in product([0, 1], repeat=10)], np.float32)
    errors = np.square((corners - matrix[:, 0]) @ inputs.T).sum(axis=1)
    found = learn_rounding(matrix, one_step(), inputs, inputs @ matrix, SHORT)
    reached = squared_error(inputs, STEP * found.codes.astype(np.float32), inputs @ matrix)
    better = np.mean(errors < reached * (1 - 1e-4))
    assert better < 0.01, "at most one in a hundred of the 1024 roundings is better"


def test_it_makes_up_for_inputs_that_are_off_already() -> None:
    """Asymmetric reconstruction: targets are of the float model, inputs of the quantized one."""
    matrix, exact = weight(), correlated(0)
    off = exact * np.float32(1.1)
    found = learn_rounding(matrix, one_step(), off, exact @ matrix, SHORT)
    blind = learn_rounding(matrix, one_step(), off, off @ matrix, SHORT)
    real, blind_real = (STEP * each.codes.astype(np.float32) for each in (found, blind))
    assert squared_error(off, real, exact @ matrix) < 0.7 * squared_error(off, blind_real, exact @ matrix)


def test_a_few_huge_tokens_do_not_decide_alone() -> None:
    matrix, inputs = weight(), correlated(0)
    huge = np.random.default_rng(5).normal(0, 300, (8, INPUTS)).astype(np.float32)
    seen = np.concatenate([inputs, huge])
    errors = {}
    for relative in (True, False):
        settings = Settings(iterations=1000, relative=relative)
        found = learn_rounding(matrix, one_step(), seen, seen @ matrix, settings)
        errors[relative] = squared_error(inputs, STEP * found.codes.astype(np.float32), inputs @ matrix)
    assert errors[True] < 0.8 * errors[False]


@pytest.mark.parametrize("dtype", ["int2", "int3", "int8", "uint4"])
@pytest.mark.parametrize("granularity", [PerTensor(), PerChannel(1), PerGroup(0, 8)], ids=str)
def test_every_code_is_its_weight_rounded_up_or_down(granularity, dtype: str) -> None:
    kind, matrix, inputs = QTYPES[dtype], weight(), correlated(0)
    shape = {"per_tensor": (), "per_channel": (OUTPUTS,)}.get(str(granularity), (INPUTS // 8, OUTPUTS))
    scale = np.random.default_rng(3).uniform(0.05, 0.15, shape).astype(np.float32)
    zero = np.full(shape, 0 if kind.signed else 6, np.int32)
    encoding = Encoding(kind, granularity, scale, zero)
    found = learn_rounding(matrix, encoding, inputs, inputs @ matrix, Settings(iterations=50))
    rows = {"per_tensor": scale, "per_channel": scale[None]}.get(str(granularity))
    real = matrix / (np.repeat(scale, 8, axis=0) if rows is None else rows) + (0 if kind.signed else 6)
    clipped = np.clip(real, kind.qmin, kind.qmax)
    assert found.codes.dtype == kind.storage
    assert np.all(np.abs(found.codes - clipped) < 1 + 1e-3)  # float32 divides
    assert found.error <= found.nearest_error


def test_a_weight_that_is_exact_stays() -> None:
    matrix = (STEP * np.random.default_rng(0).integers(-8, 8, (INPUTS, OUTPUTS))).astype(np.float32)
    inputs = correlated(0)
    found = learn_rounding(matrix, one_step(), inputs, inputs @ matrix, SHORT)
    np.testing.assert_array_equal(STEP * found.codes.astype(np.float32), matrix)
    assert (found.changed, found.error) == (0, 0)


def test_a_layer_whose_output_is_nothing_keeps_nearest() -> None:
    found = learn_rounding(
        weight(), one_step(), np.zeros((9, INPUTS), np.float32), np.zeros((9, OUTPUTS), np.float32), SHORT
    )
    np.testing.assert_allclose(STEP * found.codes.astype(np.float32), nearest(weight()), atol=1e-7)


def test_blocks_and_threads_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix, inputs = weight(), correlated(0)
    whole = learn_rounding(matrix, one_step(), inputs, inputs @ matrix, SHORT)
    again = learn_rounding(matrix, one_step(), inputs, inputs @ matrix, SHORT)
    np.testing.assert_array_equal(whole.codes, again.codes)
    monkeypatch.setattr("qonnx_pipe.source.adaround.BLOCK", 2 * INPUTS)
    parts = learn_rounding(matrix, one_step(), inputs, inputs @ matrix, SHORT)
    assert np.mean(whole.codes != parts.codes) <= 0.05  # sums in another order tip what hangs in the balance


def test_the_exponent_falls_by_a_cosine_after_the_warm_up() -> None:
    settings = Settings(iterations=100)
    assert settings.beta_at(19) is None
    assert settings.beta_at(20) == 20
    assert settings.beta_at(60) == pytest.approx(11)
    assert settings.beta_at(99) == pytest.approx(2, abs=0.01)
    assert settings.rate == 0.1
    assert Settings().rate == pytest.approx(1e-3), "the papers' rate at their number of iterations"
