"""A sampled model computes what the whole one does, with other weights where asked, and only as far as needed."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from qonnx_pipe.core.site import Role
from qonnx_pipe.graph import io
from qonnx_pipe.graph.instrument import EXAMPLES_INPUT, TOKENS_INPUT
from qonnx_pipe.graph.sampled import frontier, matrix, sample
from qonnx_pipe.graph.sites import find_sites

pytestmark = pytest.mark.export

IDS = np.random.default_rng(0).integers(5, 30, (3, 7))
INPUTS = {"input_ids": IDS, "attention_mask": np.ones_like(IDS), "token_type_ids": 0 * IDS}
PLACES = {TOKENS_INPUT: np.int64([[0, 1], [2, 6], [1, 3]]), EXAMPLES_INPUT: np.int64([[2], [0]])}


def run(path: Path, *names: str) -> list[np.ndarray]:
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    given = {**INPUTS, **PLACES}
    return session.run(list(names), {port.name: given[port.name] for port in session.get_inputs()})


def exposed(model: Path, tensor: str, target: Path) -> np.ndarray:
    """The values of one tensor of a model."""
    proto = onnx.load(model)
    proto.graph.output.append(onnx.helper.make_tensor_value_info(tensor, onnx.TensorProto.FLOAT, None))
    onnx.save(proto, target)
    return run(target, tensor)[0]


def test_the_chosen_tokens_are_those_of_the_whole_model(exported: Callable[..., Path], tmp_path: Path) -> None:
    model = exported("bert", "text-classification")
    loaded = io.load(model)
    sites = find_sites(loaded).by_id
    wanted = [sites["layer.0/ffn.input"], sites["layer.1/ffn.activation"]]
    cut = sample(loaded, {}, wanted, tmp_path / "cut.onnx")
    for site in wanted:
        whole = exposed(model, site.tensor, tmp_path / "whole.onnx")
        (found,) = run(cut.path, cut.outputs[site.id])
        np.testing.assert_allclose(found, whole[[0, 2, 1], [1, 6, 3]], rtol=1e-5, atol=1e-6)


def test_what_comes_behind_is_left_out(exported: Callable[..., Path], tmp_path: Path) -> None:
    model = exported("bert")
    loaded = io.load(model)
    site = find_sites(loaded).by_id["layer.0/ffn.input"]
    cut = onnx.load(sample(loaded, {}, [site], tmp_path / "cut.onnx").path)
    assert not any("layer.1" in node.name for node in cut.graph.node)
    assert sum(np.prod(one.dims) for one in cut.graph.initializer) < sum(
        np.prod(one.dims) for one in onnx.load(model).graph.initializer
    )


@pytest.mark.parametrize("family", ["bert", "albert"])
def test_other_weights_take_the_place_of_its_own(exported: Callable[..., Path], tmp_path: Path, family: str) -> None:
    loaded = io.load(exported(family))
    sites = find_sites(loaded)
    weight = next(site for site in sites.weights if site.owner is Role.FFN_ACTIVATION)
    values = matrix(loaded, weight)
    assert values.shape[1] == weight.width
    zeroed = sample(loaded, {weight: 0 * values}, [sites.by_id["layer.0/ffn.activation"]], tmp_path / "cut.onnx")
    (found,) = run(zeroed.path, zeroed.outputs["layer.0/ffn.activation"])
    np.testing.assert_allclose(found, np.broadcast_to(found[0], found.shape))  # only the bias is left
    own = sample(loaded, {weight: values}, [sites.by_id["layer.1/ffn.input"]], tmp_path / "own.onnx")
    same = sample(loaded, {}, [sites.by_id["layer.1/ffn.input"]], tmp_path / "same.onnx")
    np.testing.assert_array_equal(*(run(each.path, each.outputs["layer.1/ffn.input"])[0] for each in (own, same)))


def test_pairwise_tensors_give_nothing(exported: Callable[..., Path], tmp_path: Path) -> None:
    loaded = io.load(exported("bert"))
    scores, other = (find_sites(loaded).by_id[f"layer.0/{name}"] for name in ("attention.scores", "ffn.input"))
    assert list(sample(loaded, {}, [scores, other], tmp_path / "cut.onnx").outputs) == [other.id]


@pytest.mark.parametrize("family", ["bert", "mpnet", "deberta-v2"])
def test_stretch_by_stretch_is_the_whole(exported: Callable[..., Path], tmp_path: Path, family: str) -> None:
    loaded = io.load(exported(family))
    nodes = {node.name: place for place, node in enumerate(loaded.graph)}
    sites = find_sites(loaded)
    last = sites.by_id["layer.1/ffn.activation"]
    weights = sorted((site for site in sites.weights if site.layer is not None), key=lambda one: nodes[one.feeds[0]])
    held = {**INPUTS, **PLACES}
    known: tuple[str, ...] = ()
    for place in (1, 4, 8, 11):
        ahead = frontier(loaded, {name for site in weights[place:] for name in site.feeds})
        new = [name for name in ahead if name not in known]
        cut = sample(loaded, {}, [last] if place == 11 else [], tmp_path / "cut.onnx", start=known, passed_on=new)
        session = ort.InferenceSession(cut.path, providers=["CPUExecutionProvider"])
        fed = {port.name: held[port.name] for port in session.get_inputs()}
        assert place == 1 or "input_ids" not in fed
        held |= dict(zip([port.name for port in session.get_outputs()], session.run(None, fed), strict=True))
        known = ahead
    whole = sample(loaded, {}, [last], tmp_path / "whole.onnx")
    (expected,) = run(whole.path, whole.outputs[last.id])
    np.testing.assert_allclose(held[cut.outputs[last.id]], expected, rtol=1e-4, atol=1e-5)


def test_the_frontier_is_what_is_known_and_read(exported: Callable[..., Path]) -> None:
    loaded = io.load(exported("bert"))
    sites = find_sites(loaded)
    layers = {
        name for site in sites.weights if site.layer == 1 and site.owner is Role.FFN_OUTPUT for name in site.feeds
    }
    found = frontier(loaded, layers)
    assert set(found) == {sites.by_id["layer.1/ffn.activation"].tensor, sites.by_id["layer.1/ffn.input"].tensor}
    assert frontier(loaded, set()) == ()
