"""An exported graph computes in torch what ONNX Runtime computes, and gradients of both orders flow through it."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qonnx_pipe.core.network import Network, Node
from qonnx_pipe.errors import ModelError
from qonnx_pipe.graph.network import read_network, write_weights
from qonnx_pipe.graph.summary import summarise
from qonnx_pipe.runtime.session import open_session, run_session
from qonnx_pipe.source.checkpoint import read_config
from qonnx_pipe.source.probe import probe_batches
from tests.zoo.checkpoints import ENCODERS

torch = pytest.importorskip("torch")

from qonnx_pipe.source.network import GraphModule  # noqa: E402 (it needs torch)

pytestmark = pytest.mark.export

CLASSIFIERS = ("bert", "albert", "deberta-v2", "roberta", "mpnet", "electra", "distilbert")
PARTS = [
    *((family, None, "model.onnx") for family in (*ENCODERS, "gpt2")),
    *((family, "text-classification", "model.onnx") for family in CLASSIFIERS),
    *(("bart", None, part) for part in ("encoder_model.onnx", "decoder_model.onnx")),
]
Exported = Callable[..., Path]


def probes(model: Path) -> list[dict[str, Any]]:
    inputs = {port.name: port.shape for port in summarise(model).inputs}
    return probe_batches(model.parent, read_config(model.parent), inputs)


def tensors(batch: Mapping[str, np.ndarray]) -> dict[str, Any]:
    return {name: torch.from_numpy(array) for name, array in batch.items()}


@pytest.mark.parametrize(("family", "task", "part"), PARTS)
def test_every_architecture_computes_what_its_file_does(exported: Exported, family: str, task: str, part: str) -> None:
    model = exported(family, task).parent / part
    module, session = GraphModule(read_network(model)), open_session(model)
    for batch in probes(model):
        with torch.no_grad():
            found = module(tensors(batch))
        expected = run_session(session, batch, model=model)
        assert list(found) == list(expected)
        limit = (
            4e-5 if part == "decoder_model.onnx" else 1e-5
        )  # other sums, twice as deep; no single step is above 1e-6
        for name, values in expected.items():
            assert found[name].shape == values.shape
            assert np.abs(found[name].numpy() - values).max() <= limit * max(1.0, np.abs(values).max())


@pytest.mark.parametrize("family", ["bert", "deberta-v2", "mpnet"])
def test_first_and_second_derivatives(exported: Exported, family: str) -> None:
    """Against central differences of the loss and of the gradient along one direction, in double precision."""
    model = exported(family, "text-classification")
    module = GraphModule(read_network(model)).double()
    batch = tensors(probes(model)[0])
    weights = list(module.parameters())
    generator = torch.Generator().manual_seed(0)
    direction = [torch.randn(w.shape, generator=generator, dtype=w.dtype) * w.detach().std() for w in weights]

    def loss() -> Any:
        return module(batch)["logits"].square().sum()

    def gradients(create_graph: bool = False) -> Any:
        return torch.autograd.grad(loss(), weights, create_graph=create_graph, materialize_grads=True)

    def along(values: Any) -> Any:
        return sum((value * way).sum() for value, way in zip(values, direction, strict=True))

    def moved(step: float) -> None:
        with torch.no_grad():
            for weight, way in zip(weights, direction, strict=True):
                weight.add_(step * way)

    first = gradients(create_graph=True)
    slope, second = along(first), torch.autograd.grad(along(first), weights, materialize_grads=True)
    step = 1e-5
    moved(step)
    above, slope_above = loss().item(), along(gradients()).item()
    moved(-2 * step)
    below, slope_below = loss().item(), along(gradients()).item()
    assert slope.item() == pytest.approx((above - below) / (2 * step), rel=1e-4)
    assert along(second).item() == pytest.approx((slope_above - slope_below) / (2 * step), rel=1e-3)


def test_weights_are_parameters_and_the_rest_is_not(exported: Exported) -> None:
    model = exported("bert")
    network = read_network(model)
    module = GraphModule(network)
    floats = {name for name, array in network.initializers.items() if array.dtype.kind == "f" and array.size > 1}
    assert set(module.weights) == floats
    assert sum(weight.numel() for weight in module.parameters()) == sum(network.initializers[n].size for n in floats)
    assert all(not buffer.is_floating_point() or buffer.numel() == 1 for buffer in module.buffers())


def test_hooks_change_what_readers_get(exported: Exported) -> None:
    model = exported("bert")
    network = read_network(model)
    module, batch = GraphModule(network), tensors(probes(model)[1])
    norm = next(node for node in network.nodes if node.operator == "LayerNormalization")
    gain = norm.inputs[1]
    seen: list[Any] = []
    outputs = module(batch, {norm.outputs[0]: lambda x: [seen.append(x), 2 * x][1]})
    weight = module.weights[gain].data, module.weights[norm.inputs[2]].data
    for part in weight:
        part.mul_(2)
    doubled = module(batch)
    assert len(seen) == 1
    assert torch.allclose(outputs["last_hidden_state"], doubled["last_hidden_state"], atol=1e-5)
    halved = module(batch, {norm.inputs[1]: lambda g: g / 2, norm.inputs[2]: lambda b: b / 2})
    assert not torch.allclose(halved["last_hidden_state"], doubled["last_hidden_state"], atol=1e-3)


def test_rows_of_a_table_are_hooked_where_they_are_read(exported: Exported) -> None:
    model = exported("bert")
    network = read_network(model)
    module, batch = GraphModule(network), tensors(probes(model)[1])
    words = next(
        node.inputs[0] for node in network.nodes if node.operator == "Gather" and node.inputs[1] == "input_ids"
    )
    through_rows = module(batch, rows={words: lambda table, ids: 2 * table[ids]})
    through_table = module(batch, {words: lambda table: 2 * table})
    assert torch.equal(through_rows["last_hidden_state"], through_table["last_hidden_state"])
    assert not torch.equal(through_rows["last_hidden_state"], module(batch)["last_hidden_state"])


def test_an_unknown_operator_is_named() -> None:
    node = Node("mystery", "com.microsoft.BiasGelu", ("x", "b"), ("y",), {})
    with pytest.raises(ModelError, match=r"com\.microsoft\.BiasGelu") as caught:
        GraphModule(Network(("x",), ("y",), (node,), {"b": np.zeros(3, np.float32)}))
    assert caught.value.where == "mystery"


def test_a_scatter_that_adds_is_named_too() -> None:
    node = Node("sum", "ScatterND", ("x", "i", "u"), ("y",), {"reduction": "add"})
    with pytest.raises(ModelError, match="ScatterND with reduction add") as caught:
        GraphModule(Network(("x", "i", "u"), ("y",), (node,), {}))
    assert caught.value.where == "sum"


def test_other_weights_are_written_under_the_same_names(exported: Exported, tmp_path: Path) -> None:
    model = exported("bert")
    module = GraphModule(read_network(model))
    with torch.no_grad():
        for index, weight in enumerate(module.parameters()):
            weight.add_(0.01 * (index % 3))
    target = tmp_path / "changed.onnx"
    write_weights(model, module.arrays(), target)
    batch = probes(model)[1]
    found = run_session(open_session(target), batch, model=target)["last_hidden_state"]
    expected = module(tensors(batch))["last_hidden_state"].detach().numpy()
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()
    changed = read_network(target)
    assert [node.name for node in changed.nodes] == [node.name for node in read_network(model).nodes]


def test_weights_of_another_model_are_refused(exported: Exported, tmp_path: Path) -> None:
    name = next(iter(read_network(exported("bert")).initializers))
    for weights in ({"no such": np.zeros(2, np.float32)}, {name: np.zeros((1, 2, 3), np.float32)}):
        with pytest.raises(ModelError, match="no initializer"):
            write_weights(exported("bert"), weights, tmp_path / "x.onnx")


def test_exact_products_are_rounded_once() -> None:
    """2²⁴ + 1 − 2²⁴: float32 loses the one on the way."""
    left, right = np.array([[4096.0, 1.0, 4096.0]], np.float32), np.array([[4096.0], [1.0], [-4096.0]], np.float32)
    node = Node("product", "MatMul", ("left", "right"), ("out",), {})
    graph = GraphModule(Network(("left", "right"), ("out",), (node,), {}))
    fed = {"left": torch.from_numpy(left), "right": torch.from_numpy(right)}
    found = graph(fed, exact=True)["out"]
    assert found.dtype == torch.float32
    assert found.item() == 1.0
