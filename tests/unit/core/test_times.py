"""Times of matrices add up to the files that were timed, and survive JSON."""

import json

import pytest

from qonnx_pipe.core.times import FLOAT, Times, shared_out

KERNELS = {"a": {FLOAT: 3.0, 8: 1.0, 2: 1.5}, "b": {FLOAT: 1.0, 8: 0.5, 2: 0.25}}
WHOLES = {FLOAT: 10.0, 8: 8.5, 2: 6.0}


def test_a_weight_everywhere_at_one_width_gives_the_file_that_was_timed() -> None:
    rest, matrices = shared_out(WHOLES, KERNELS)
    assert rest == 6.0
    for bits, whole in WHOLES.items():
        assert rest + sum(own[bits] for own in matrices.values()) == pytest.approx(whole)


def test_what_is_beyond_the_matmuls_falls_to_the_large_ones() -> None:
    """The 8-bit file takes 1 ms more than its MatMuls and the float file's rest: three quarters of it belong to a."""
    _, matrices = shared_out(WHOLES, KERNELS)
    assert matrices["a"] == pytest.approx({FLOAT: 3.0, 8: 1.75, 2: 1.5 - 0.75 * 1.75})
    assert matrices["b"] == pytest.approx({FLOAT: 1.0, 8: 0.75, 2: 0.25 - 0.25 * 1.75})


def test_json() -> None:
    times = Times("cpu", (1, 128), 2, 7, 12.5, 6.0, 0.1, KERNELS)
    assert Times.from_json(json.loads(json.dumps(times.to_json()))) == times
    assert times.of("a", 2) == 1.5
    assert times.of("embedding.word/weight", 4) == 0.0
    with pytest.raises(KeyError):
        times.of("a", 3)
