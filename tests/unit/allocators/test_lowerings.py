"""The choice of a form: the cheapest of the good ones, with its figures; predictions in the order that was measured."""

import numpy as np
import pytest

from qonnx_pipe.allocators.lowerings import Candidate, choose, predicted_time
from qonnx_pipe.core.encoding import EmbeddingGroups, Encoding, Windows
from qonnx_pipe.core.granularity import PerTensor
from qonnx_pipe.core.qtype import QTYPES


def test_the_cheapest_of_those_that_are_about_as_good_is_taken() -> None:
    chosen, reason = choose(
        [Candidate("split", 1.60, 35.5), Candidate("fold", 1.02, 38.0), Candidate("expand", 1.06, 38.3)]
    )
    assert chosen.form == "fold"
    assert reason == "auto: fold 38.0 dB at 1.02×; not split 35.5 dB at 1.60×, expand 38.3 dB at 1.06×"


def test_error_that_is_worth_its_time_is_bought() -> None:
    chosen, _ = choose([Candidate("fold", 1.00, 30.0), Candidate("expand", 1.08, 36.0)])
    assert chosen.form == "expand"


def test_time_that_gains_too_little_is_not_spent() -> None:
    chosen, _ = choose([Candidate("expand", 1.05, 35.0), Candidate("split", 3.0, 40.0)])
    assert chosen.form == "expand"


def test_equal_times_leave_it_to_the_error() -> None:
    chosen, _ = choose([Candidate("split", 1.05, 35.0), Candidate("expand", 1.05, 35.4)])
    assert chosen.form == "expand"


@pytest.mark.parametrize(("time", "form"), [(2.5, "fold"), (1.02, "float"), (0.9, "float")])
def test_float_is_taken_where_it_costs_nothing(time: float, form: str) -> None:
    chosen, _ = choose([Candidate("fold", 1.02, 30.0), Candidate("float", time, 45.0)])
    assert chosen.form == form


def test_float_alone_stays_float() -> None:
    assert choose([Candidate("float", 2.0, 45.0)]) == (Candidate("float", 2.0, 45.0), "auto: float 45.0 dB at 2.00×")


def test_nothing_to_choose_from_is_refused() -> None:
    with pytest.raises(ValueError, match="no form"):
        choose([])


def encodings(width: int) -> dict[str, Encoding]:
    uint8, scrambled = QTYPES["uint8"], tuple(reversed(range(width)))
    one, many = np.float32(0.1), np.full(6, 0.1, np.float32)
    return {
        "plain": Encoding(uint8, PerTensor(), one, np.int32(0)),
        "windows": Encoding(uint8, Windows(width, tuple(range(16)), (1,) * 16), one, np.int32(0)),
        "uneven": Encoding(uint8, EmbeddingGroups((width - 16, 16), scrambled), many[:2], np.zeros(2, np.int32)),
        "equal": Encoding(uint8, EmbeddingGroups((width // 6,) * 6, scrambled), many, np.zeros(6, np.int32)),
    }


@pytest.mark.parametrize(("width", "outs"), [(384, 1536), (384, 1152), (768, 3072)])
def test_forms_are_predicted_in_the_order_that_was_measured(width: int, outs: int) -> None:
    found = encodings(width)
    size = {"tokens": 1024, "width": width, "outs": outs}
    plain = predicted_time("qdq", found["plain"], **size)
    times = [
        plain,
        predicted_time("fold", found["plain"], **size),
        predicted_time("expand", found["windows"], **size),
        predicted_time("split", found["uneven"], **size),
        predicted_time("split", found["equal"], **size),
    ]
    assert plain == 1.0
    assert times == sorted(times)
    assert times[1] < 1.1
    assert times[2] < 1.35
    assert 1.5 < predicted_time("float", None, **size) < 3.5
