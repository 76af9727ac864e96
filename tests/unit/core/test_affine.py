"""An affine is checked at birth, and two in a row are one."""

import numpy as np
import pytest

from qonnx_pipe.core.affine import Affine

GOOD, ZERO = np.float32([1, 2]), np.float32([0, 0])


@pytest.mark.parametrize(
    ("scale", "shift"),
    [
        (GOOD, np.float32([0])),
        (np.float32([1, 0]), ZERO),
        (np.float32([1, -1]), ZERO),
        (np.float32([1, np.inf]), ZERO),
        (GOOD, np.float32([0, np.nan])),
        (np.float32(1), np.float32(0)),
    ],
)
def test_no_affine(scale: np.ndarray, shift: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"scale"):
        Affine(scale, shift)


def test_values_are_shifted_and_then_divided() -> None:
    affine = Affine(np.float32([2, 4]), np.float32([1, -1]))
    assert affine(np.float32([[3, 7], [1, -1]])).tolist() == [[1, 2], [0, 0]]
    assert affine.shifts
    assert affine.scales
    assert not Affine.scaling(GOOD).shifts
    assert not Affine.shifting(GOOD).scales


def test_one_after_the_other_is_one() -> None:
    first, second = Affine(np.float32([2, 4]), np.float32([1, -1])), Affine(np.float32([8, 0.5]), np.float32([3, 5]))
    values = np.random.default_rng(0).normal(0, 10, (5, 2)).astype(np.float32)
    np.testing.assert_allclose(first.then(second)(values), second(first(values)), rtol=1e-5)
    back = Affine.shifting(np.float32([3, 4])).then(Affine.shifting(np.float32([-3, -4])))
    np.testing.assert_array_equal(back(values), values)
