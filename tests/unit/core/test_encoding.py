"""Encodings are checked at birth and survive JSON to the last bit."""

from __future__ import annotations

import json

import numpy as np
import pytest

from qonnx_pipe.core.encoding import EmbeddingGroups, Encoding, ResolvedGranularity, Windows
from qonnx_pipe.core.granularity import PerChannel, PerGroup, PerTensor
from qonnx_pipe.core.qtype import QTYPES

SCALES = np.array([np.float32(0.1), np.finfo(np.float32).tiny, np.nextafter(np.float32(1), np.float32(2))], np.float32)


@pytest.mark.parametrize(
    ("granularity", "scale"),
    [
        (PerTensor(), SCALES[0]),
        (PerChannel(1), SCALES),
        (PerGroup(0, 4), SCALES.reshape(1, 3)),
        (EmbeddingGroups((1, 2, 1), (3, 0, 2, 1)), SCALES),
    ],
)
def test_json_round_trip_is_exact(granularity: ResolvedGranularity, scale: np.ndarray) -> None:
    born = Encoding(QTYPES["uint8"], granularity, scale, np.full(np.shape(scale), 7))
    again = Encoding.from_json(json.loads(json.dumps(born.to_json())))
    assert (again.dtype, again.granularity) == (born.dtype, born.granularity)
    assert again.scale.dtype == np.float32
    assert again.scale.shape == np.shape(scale)
    assert again.scale.tobytes() == np.asarray(scale, np.float32).tobytes()
    np.testing.assert_array_equal(again.zero_point, born.zero_point)


@pytest.mark.parametrize(
    ("granularity", "scale", "zero_point", "message"),
    [
        (PerTensor(), [1.0], [0], "0-d"),
        (PerTensor(), 1.0, [0], "zero point"),
        (PerTensor(), 0.0, 0, "finite and positive"),
        (PerTensor(), -1.0, 0, "finite and positive"),
        (PerTensor(), np.inf, 0, "finite and positive"),
        (PerTensor(), np.nan, 0, "finite and positive"),
        (PerTensor(), 1.0, 128, "outside int8"),
        (PerTensor(), 1.0, -129, "outside int8"),
        (EmbeddingGroups((1, 1), (0, 1)), [1.0], [0], "2 groups"),
    ],
)
def test_an_illegal_encoding_is_not_born(
    granularity: ResolvedGranularity, scale: object, zero_point: object, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Encoding(QTYPES["int8"], granularity, np.asarray(scale), np.asarray(zero_point))


def test_arrays_are_read_only() -> None:
    encoding = Encoding(QTYPES["int8"], PerChannel(0), np.ones(2), np.zeros(2))
    with pytest.raises(ValueError, match="read-only"):
        encoding.scale[0] = 2.0


@pytest.mark.parametrize("granularity", [{"kind": "per_row"}, "per_tensor"])
def test_unknown_json_is_refused(granularity: object) -> None:
    with pytest.raises(ValueError, match="granularity"):
        Encoding.from_json({"dtype": "int8", "granularity": granularity, "scale": 1.0, "zero_point": 0})


def test_windows_survive_json() -> None:
    encoding = Encoding(QTYPES["uint8"], Windows(4, (2, 2, 0), (1, 2, -1)), np.float32(0.1), np.int32(7))
    back = Encoding.from_json(json.loads(json.dumps(encoding.to_json())))
    assert back.granularity == encoding.granularity
    assert back.granularity.rows == (0, 1, 2, 3, 2, 2, 0)
    assert (float(back.scale), int(back.zero_point)) == (float(encoding.scale), 7)


@pytest.mark.parametrize(
    ("dimensions", "places", "what"),
    [((4,), (1,), "none of 4"), ((1, 2), (1,), "2 columns, 1 places"), ((1,), (0,), "own window")],
)
def test_windows_are_checked_at_birth(dimensions, places, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        Windows(4, dimensions, places)
