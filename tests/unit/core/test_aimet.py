"""AIMET's form: both versions as its documentation has them, the same steps back, and clear words for what is wrong."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from qonnx_pipe.core import aimet
from qonnx_pipe.core.encoding import EmbeddingGroups, Encoding
from qonnx_pipe.core.granularity import PerChannel, PerTensor
from qonnx_pipe.core.qtype import QTYPES

ACTIVATION = Encoding(QTYPES["uint8"], PerTensor(), np.float32(0.5), np.int32(128 - 28))
WEIGHT = Encoding(QTYPES["int8"], PerChannel(1), np.array([0.25, 0.125]), np.zeros(2))


def test_version_1_is_a_list_of_entries() -> None:
    document = aimet.to_json({"x": ACTIVATION}, {"w": WEIGHT}, "1.0.0")
    assert json.loads(json.dumps(document)) == {
        "version": "1.0.0",
        "activation_encodings": [
            {
                "name": "x",
                "bw": 8,
                "dtype": "INT",
                "enc_type": "PER_TENSOR",
                "is_sym": False,
                "offset": [-100],
                "scale": [0.5],
            }
        ],
        "param_encodings": [
            {
                "name": "w",
                "bw": 8,
                "dtype": "INT",
                "enc_type": "PER_CHANNEL",
                "is_sym": True,
                "offset": [-128, -128],
                "scale": [0.25, 0.125],
            }
        ],
    }


def test_version_0_6_1_is_a_dictionary_of_lists() -> None:
    document = json.loads(json.dumps(aimet.to_json({"x": ACTIVATION}, {"w": WEIGHT}, "0.6.1")))
    common = {"bitwidth": 8, "dtype": "int"}
    activation = {"is_symmetric": "False", "max": 77.5, "min": -50.0, "offset": -100, "scale": 0.5}
    weights = [
        {"is_symmetric": "True", "max": 31.75, "min": -32.0, "offset": -128, "scale": 0.25},
        {"is_symmetric": "True", "max": 15.875, "min": -16.0, "offset": -128, "scale": 0.125},
    ]
    assert document == {
        "version": "0.6.1",
        "activation_encodings": {"x": [common | activation]},
        "param_encodings": {"w": [common | weight for weight in weights]},
    }


@pytest.mark.parametrize("version", aimet.VERSIONS)
@pytest.mark.parametrize("dtype", ["int4", "uint4", "int8", "uint8", "int16", "uint16"])
def test_the_same_steps_come_back_to_the_last_bit(version: aimet.Version, dtype: str) -> None:
    kind, rng = QTYPES[dtype], np.random.default_rng(3)
    zero_points = [kind.qmin, kind.qmax, (kind.qmin + kind.qmax) // 2 + 1]
    born = Encoding(kind, PerChannel(0), rng.lognormal(-9, 4, 3).astype(np.float32), np.array(zero_points))
    grid = aimet.from_json(json.loads(json.dumps(aimet.to_json({}, {"w": born}, version))))["w"]
    assert grid is not None
    again = grid.encoding(kind, PerChannel(0))
    assert again.scale.tobytes() == born.scale.tobytes()
    np.testing.assert_array_equal(again.zero_point, born.zero_point)


def test_either_type_of_as_many_bits_has_the_same_reals() -> None:
    (grid,) = aimet.from_json(aimet.to_json({"x": ACTIVATION}, {}, "1.0.0")).values()
    assert grid is not None
    signed = grid.encoding(QTYPES["int8"], PerTensor())
    assert (signed.scale, signed.zero_point) == (np.float32(0.5), 100 - 128)


def test_groups_have_no_such_form() -> None:
    groups = Encoding(QTYPES["uint8"], EmbeddingGroups((1, 1), (0, 1)), np.ones(2), np.zeros(2))
    with pytest.raises(ValueError, match="one scale"):
        aimet.to_json({"x": groups}, {}, "1.0.0")


OLD: dict[str, Any] = {"bitwidth": 8, "dtype": "int", "is_symmetric": "False", "offset": -100, "scale": 0.5}
NEW: dict[str, Any] = {
    "name": "x",
    "bw": 8,
    "dtype": "INT",
    "enc_type": "PER_TENSOR",
    "is_sym": False,
    "offset": [-100],
    "scale": [0.5],
}


def old(**changes: object) -> dict[str, Any]:
    entry = {key: value for key, value in (OLD | changes).items() if value is not None}
    return {"version": "0.6.1", "activation_encodings": {"x": [entry]}, "param_encodings": {}}


def new(**changes: object) -> dict[str, Any]:
    return {"version": "1.0.0", "activation_encodings": [NEW | changes], "param_encodings": []}


@pytest.mark.parametrize(
    ("document", "scale", "offset"),
    [
        (old(), 0.5, -100),
        (old(offset=-100.0), 0.5, -100),
        ({key: value for key, value in old().items() if key != "version"}, 0.5, -100),
        ({"activation_encodings": {"x": OLD}}, 0.5, -100),
        (old(scale=None, offset=None, min=-50.0, max=77.5), 0.5, -100),
        (old(is_symmetric="True", offset=0), 0.5, -128),
        (new(), 0.5, -100),
        (new(is_sym=True, offset=[0.0]), 0.5, -128),
    ],
)
def test_what_other_writers_write_is_read(document: object, scale: float, offset: int) -> None:
    grid = aimet.from_json(document)["x"]
    assert grid is not None
    assert (grid.scale.tolist(), grid.offset.tolist()) == ([scale], [offset])


@pytest.mark.parametrize("document", [old(dtype="float", bitwidth=16), new(dtype="FLOAT", bw=16)])
def test_float_is_none(document: object) -> None:
    assert aimet.from_json(document) == {"x": None}


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([], "neither activation_encodings"),
        ({"version": "1.0.0"}, "neither activation_encodings"),
        (old() | {"version": "2.0.0"}, "version '2.0.0' is unknown"),
        (old() | {"version": ["1.0.0"]}, "is unknown"),
        (old() | {"version": "1.0.0"}, "no list"),
        (new() | {"version": "0.6.1"}, "no dictionary"),
        (old() | {"param_encodings": {"x": [OLD]}}, "x: two encodings"),
        ({"activation_encodings": {"conv": {"output": {"0": OLD}}}}, "conv: .*module of torch"),
        ({"activation_encodings": {"x": []}}, "x: no list"),
        (old(scale=0.0), "x: a scale is not finite and positive"),
        (old(scale=-1), "x: a scale is not finite"),
        (old(scale=1e300), "x: a scale is not finite"),
        (old(scale=float("nan")), "x: scale is nan"),
        (old(scale="0.5"), "x: scale is '0.5', no number"),
        (old(offset=-0.5), "x: offset -0.5 is no whole number"),
        (old(offset=8), "x: an offset is outside"),
        (old(offset=-256), "x: an offset is outside"),
        (old(offset=-1e30), "x: "),
        (old(bitwidth="8"), "x: no one whole number of bits"),
        (old(bitwidth=64), "x: no one whole number of bits"),
        (old(scale=None), "x: min is None"),
        (old(dtype="uint"), "x: the dtype is uint"),
        (old() | {"param_encodings": {"w": [OLD, OLD | {"bitwidth": 4}]}}, "w: no one whole number of bits"),
        (new(enc_type="PER_BLOCK", block_size=32), "x: .*PER_BLOCK"),
        (new(zero_point_shift=[0.5]), "x: encodings"),
        (new(offset=[-100, -100]), "x: scale and offset"),
        (new(offset=-100), "x: scale and offset"),
        (new(offset=[], scale=[]), "x: "),
        (new(name=None), r"activation_encodings\[0\]: an entry without a name"),
        (new() | {"activation_encodings": ["x"]}, "without a name"),
    ],
)
def test_what_is_wrong_is_named(document: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        aimet.from_json(document)
