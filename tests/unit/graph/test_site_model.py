"""A site's tiny file: the form that it is asked for, runnable, with the surroundings of the real site."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from qonnx_pipe.core.encoding import EmbeddingGroups, Encoding, Windows
from qonnx_pipe.core.granularity import PerTensor
from qonnx_pipe.core.qtype import QTYPES
from qonnx_pipe.graph import io
from qonnx_pipe.graph.site_model import Surroundings, site_input, site_model, surroundings
from qonnx_pipe.graph.sites import find_sites
from qonnx_pipe.observers.fold import by_groups

UINT8, WIDTH = QTYPES["uint8"], 32
PLAIN = Encoding(UINT8, PerTensor(), np.float32(0.05), np.int32(128))
EXPANDED = Encoding(UINT8, Windows(WIDTH, (3, 3, 9), (1, 2, -1)), np.float32(0.02), np.int32(128))
GROUPS = Encoding(
    UINT8, EmbeddingGroups((28, 4), tuple(reversed(range(WIDTH)))), np.float32([0.02, 0.1]), np.int32([100, 128])
)
AROUND = {
    "norm": Surroundings("norm", WIDTH, (16, 24)),
    "activation": Surroundings("activation", WIDTH, (16,), 8),
    "other": Surroundings("other", WIDTH, (16,)),
}


def operators(data: bytes) -> list[str]:
    return [node.op_type for node in onnx.load_from_string(data).graph.node]


@pytest.mark.parametrize("around", AROUND.values(), ids=AROUND)
@pytest.mark.parametrize(
    ("form", "encoding"), [("qdq", PLAIN), ("expand", EXPANDED), ("split", GROUPS), ("float", None)]
)
def test_every_form_runs(around, form, encoding) -> None:
    data = site_model(around, form, encoding)
    x = site_input(around, 64)
    assert x.shape == (8, 8, around.inner or around.width)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    found = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"]).run(None, {"x": x})
    assert [array.shape[-1] for array in found[-len(around.outs) :]] == list(around.outs)
    assert all(np.isfinite(array).all() for array in found)


def test_forms_differ_as_they_do_in_a_whole_model() -> None:
    norm = AROUND["norm"]
    assert operators(site_model(norm, "qdq", PLAIN)).count("MatMulIntegerToFloat") == 2
    assert operators(site_model(norm, "split", GROUPS)).count("MatMulIntegerToFloat") == 4
    assert "Concat" in operators(site_model(norm, "expand", EXPANDED))
    affine, encoding = by_groups(GROUPS)
    assert operators(site_model(norm, "fold", encoding, affine)).count("Mul") == 1  # the residual branch
    assert "Mul" not in operators(site_model(AROUND["other"], "fold", encoding, affine))


@pytest.mark.export
def test_the_surroundings_are_those_of_the_model(exported) -> None:
    model = io.load(exported("bert"))
    sites = find_sites(model).by_id
    assert surroundings(model, sites["layer.0/ffn.input"]).maker == "norm"
    assert len(surroundings(model, sites["layer.0/layer.output"]).outs) == 3
    inner = surroundings(model, sites["layer.0/ffn.activation"])
    assert (inner.maker, inner.inner) == ("activation", sites["layer.0/ffn.input"].width)
    assert surroundings(model, sites["layer.0/attention.context"]).maker == "other"
