"""What an instrumented model shows equals what numpy finds in the float model's own activations at real tokens."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from qonnx_pipe.core.site import Site, SiteMap
from qonnx_pipe.core.statistics import Request, Requests
from qonnx_pipe.graph import io
from qonnx_pipe.graph.instrument import EXAMPLES_INPUT, TOKENS_INPUT, Instrumented, instrument
from qonnx_pipe.graph.sites import find_sites
from qonnx_pipe.runtime.session import Trace, open_session, run_session
from tests.zoo.checkpoints import IMAGE_SIZE

pytestmark = pytest.mark.export
FAMILIES = ("bert", "deberta-v2", "vit")
NOISE = 1e-6
"""Relative: both run the same nodes; extra outputs only keep onnxruntime from fusing some of them."""

RIGHT = np.int64([[1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0]])
LEFT = RIGHT[:, ::-1].copy()
EMPTY_ROW = np.int64([[1, 1, 1, 1, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0, 0]])
AS_MANY_TOKENS_AS_HEADS = np.int64([[1, 1], [1, 0]])
MASKS = {"right": RIGHT, "left": LEFT, "empty row": EMPTY_ROW, "two": AS_MANY_TOKENS_AS_HEADS}

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Case:
    """A model, its sites, and its inputs for a mask."""

    path: Path
    sites: SiteMap

    def inputs(self, mask: np.ndarray) -> Arrays:
        rng = np.random.default_rng(3)
        known = {
            "input_ids": rng.integers(5, 90, mask.shape) * mask,
            "attention_mask": mask,
            "token_type_ids": np.zeros_like(mask),
            "pixel_values": rng.normal(size=(2, 3, IMAGE_SIZE, IMAGE_SIZE)).astype(np.float32),
        }
        return {port.name: known[port.name] for port in session(self.path).get_inputs()}


@pytest.fixture(params=FAMILIES)
def case(request: pytest.FixtureRequest, exported: Callable[..., Path]) -> Case:
    return case_of(exported(request.param))


def case_of(path: Path) -> Case:
    return Case(path, find_sites(io.load(path)))


def session(path: Path) -> ort.InferenceSession:
    return ort.InferenceSession(path, providers=["CPUExecutionProvider"])


def run(path: Path, inputs: Mapping[str, np.ndarray]) -> Arrays:
    opened = session(path)
    names = [port.name for port in opened.get_outputs()]
    return dict(zip(names, opened.run(names, dict(inputs)), strict=True))


def activations(case: Case, folder: Path, inputs: Arrays) -> Arrays:
    """Every site's tensor, from a copy of the float model that gives them out."""
    model = onnx.load(case.path)
    present = {output.name for output in model.graph.output}
    for site in case.sites.activations:
        if site.tensor not in present:
            model.graph.output.append(onnx.helper.make_tensor_value_info(site.tensor, onnx.TensorProto.FLOAT, None))
    onnx.save(model, folder / "open.onnx")
    return run(folder / "open.onnx", inputs)


def at_tokens(site: Site, values: np.ndarray, inputs: Arrays) -> np.ndarray:
    """[n, d] of real tokens; of query-key pairs [n, 1], where a pair with padding counts as 0."""
    mask = inputs.get("attention_mask")
    if site.pairwise:
        if mask is None:
            return values.reshape(-1, 1)
        found = []
        per_example = values.reshape(len(mask), -1, *values.shape[-2:])
        for heads, row in zip(per_example, mask, strict=True):
            found += [(matrix * np.outer(row, row)).reshape(-1, 1) for matrix in heads]
        return np.concatenate(found)
    if mask is None or values.ndim != 3:
        return values.reshape(-1, values.shape[-1])
    return np.concatenate([tokens[row == 1] for tokens, row in zip(values, mask, strict=True)])


def instrumented(case: Case, folder: Path, histograms: tuple[str, ...] = ()) -> Instrumented:
    wishes = Requests(tuple(Request(site, histogram="tensor") for site in histograms))
    return instrument(case.path, case.sites, wishes, folder / "instrumented.onnx")


@pytest.mark.parametrize("padding", MASKS)
def test_extremes_are_those_of_real_tokens(case: Case, padding: str, tmp_path: Path) -> None:
    inputs = case.inputs(MASKS[padding])
    expected, made = activations(case, tmp_path, inputs), instrumented(case, tmp_path)
    found = run(made.path, inputs)
    assert list(made.outlets) == [site.id for site in case.sites.activations]
    for site in case.sites.activations:
        tokens, outlets = at_tokens(site, expected[site.tensor], inputs), made.outlets[site.id]
        noise = {"rtol": NOISE, "atol": NOISE * float(np.abs(tokens).max()), "err_msg": site.id}
        np.testing.assert_allclose(found[outlets.minimum], tokens.min(axis=0), **noise)
        np.testing.assert_allclose(found[outlets.maximum], tokens.max(axis=0), **noise)


def test_a_batch_of_padding_alone_is_no_error(exported: Callable[..., Path], tmp_path: Path) -> None:
    case = case_of(exported("bert"))
    made = instrumented(case, tmp_path)
    found = run(made.path, case.inputs(np.zeros_like(RIGHT)))
    assert all(np.isfinite(found[name]).all() for out in made.outlets.values() for name in (out.minimum, out.maximum))


def test_values_come_where_they_are_asked_for_and_nowhere_else(case: Case, tmp_path: Path) -> None:
    inputs = case.inputs(RIGHT)
    wanted = tuple(site.id for site in case.sites.activations[::3])
    made = instrumented(case, tmp_path, wanted)
    assert tuple(site for site, outlets in made.outlets.items() if outlets.values) == wanted
    expected, found = activations(case, tmp_path, inputs), run(made.path, inputs)
    for site in wanted:
        name = made.outlets[site].values
        assert name == case.sites.by_id[site].tensor
        np.testing.assert_allclose(found[name], expected[name], rtol=NOISE, atol=1e-5)


def test_the_models_own_outputs_stay_first_and_as_they_were(case: Case, tmp_path: Path) -> None:
    inputs, made = case.inputs(RIGHT), instrumented(case, tmp_path)
    before, after = run(case.path, inputs), run(made.path, inputs)
    assert tuple(before) == made.outputs == tuple(after)[: len(before)]
    for name, values in before.items():
        np.testing.assert_allclose(after[name], values, rtol=1e-5, atol=1e-5)  # other fusions, other order of sums


def test_the_file_is_valid_and_every_reduction_stands_behind_what_it_reads(case: Case, tmp_path: Path) -> None:
    made = instrumented(case, tmp_path)
    onnx.checker.check_model(made.path, full_check=True)
    before = [node.name for node in onnx.load(case.path).graph.node if node.name]
    after = [node.name for node in onnx.load(made.path).graph.node]
    kept = [name for name in after if name in set(before)]
    assert kept == before
    last_model_node = after.index(before[-1])
    assert sum("Reduce" in name for name in after[:last_model_node]) > len(case.sites.activations)


def test_what_reads_a_layer_runs_before_the_next_one(case: Case, tmp_path: Path) -> None:
    """Or each tensor of the model stays in memory to the end of a run."""
    made = instrument(case.path, case.sites, Requests(()), tmp_path / "i.onnx")
    traced = open_session(made.path, observed=True, trace=Trace(None, tmp_path / "profile"))
    run_session(traced, case.inputs(RIGHT), model=made.path)
    events = json.loads(Path(traced.end_profiling()).read_bytes())
    ran = [(event["name"], event["args"]["op_name"]) for event in events if event["name"].endswith("_kernel_time")]
    products = [place for place, (_, operator) in enumerate(ran) if "MatMul" in operator or "Gemm" in operator]
    first = tuple(f"{site.tensor}_Reduce" for site in case.sites.activations if site.layer == 0)
    reductions = [place for place, (name, _) in enumerate(ran) if name.startswith(first)]
    assert len(reductions) >= 2 * len(first)
    assert max(reductions) < products[len(products) * 2 // 3]


@pytest.mark.parametrize("row", [0, 1])
def test_sums_show_a_nan_that_the_extremes_lose(exported: Callable[..., Path], tmp_path: Path, row: int) -> None:
    """onnxruntime's ReduceMin and ReduceMax drop NaN in most places: a table's row with NaN is seen in the sums."""
    case = case_of(exported("bert"))
    model = onnx.load(case.path)
    (table,) = (entry for entry in model.graph.initializer if "word_embeddings" in entry.name)
    values = onnx.numpy_helper.to_array(table).copy()
    values[77, 3] = np.nan
    table.CopyFrom(onnx.numpy_helper.from_array(values, table.name))
    onnx.save(model, tmp_path / "broken.onnx")
    made = instrumented(Case(tmp_path / "broken.onnx", case.sites), tmp_path)
    inputs = case.inputs(RIGHT)
    inputs["input_ids"][row, 2] = 77
    sums = run(made.path, inputs)[made.outlets["layer.0/layer.output"].sums]
    broken = np.isnan(sums[..., 0]) & (RIGHT == 1)
    assert [bool(example.any()) for example in broken] == [row == 0, row == 1, False]


def test_one_site_a_layer_has_sums(case: Case, tmp_path: Path) -> None:
    made = instrumented(case, tmp_path)
    with_sums = [case.sites.by_id[site] for site, outlets in made.outlets.items() if outlets.sums]
    assert [site.layer for site in with_sums if site.layer is not None] == [0, 1]
    assert {site.role for site in with_sums if site.layer is not None} == {"layer.output"}
    expected = activations(case, tmp_path, inputs := case.inputs(RIGHT))
    found = run(made.path, inputs)
    for site in with_sums:
        values = expected[site.tensor].sum(axis=-1, keepdims=True)
        np.testing.assert_allclose(found[made.outlets[site.id].sums], values, rtol=1e-4, atol=1e-3)


def test_a_file_that_says_no_shapes(exported: Callable[..., Path], tmp_path: Path) -> None:
    model = onnx.load(exported("bert"))
    del model.graph.value_info[:]
    onnx.save(model, tmp_path / "bare.onnx")
    case = case_of(tmp_path / "bare.onnx")
    inputs = case.inputs(RIGHT)
    expected, found = (
        run(instrument(path, case.sites, Requests(), tmp_path / "i.onnx").path, inputs)
        for path in (exported("bert"), case.path)
    )
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values)


PLACES = np.int64([[0, 6], [1, 2], [1, 0], [0, 3]])


@pytest.mark.parametrize("places", [PLACES, PLACES[:0]])
def test_samples_are_the_tokens_at_the_places_asked_for(case: Case, tmp_path: Path, places: np.ndarray) -> None:
    wishes = Requests(tuple(Request(site.id, samples=9) for site in case.sites.activations))
    made = instrument(case.path, case.sites, wishes, tmp_path / "instrumented.onnx")
    onnx.checker.check_model(made.path, full_check=True)
    inputs, rows = case.inputs(RIGHT), np.int64([[1]])
    expected = activations(case, tmp_path, inputs)
    chosen = {TOKENS_INPUT: places, EXAMPLES_INPUT: rows}
    asked = {port.name for port in session(made.path).get_inputs()}
    found = run(made.path, {name: array for name, array in {**inputs, **chosen}.items() if name in asked})
    assert made.tokens == (None if "attention_mask" in inputs else 17)
    for site in case.sites.activations:
        name, values = made.outlets[site.id].samples, expected[site.tensor]
        assert (name is None) == site.pairwise
        if name is not None:
            wanted = values[tuple(places.T)] if values.ndim == 3 else values[rows[:, 0]]
            noise = {"rtol": NOISE, "atol": NOISE * float(np.abs(values).max()), "err_msg": site.id}
            np.testing.assert_allclose(found[name], wanted, **noise)


def test_only_who_asks_gets_samples_and_nobody_else_gets_inputs(case: Case, tmp_path: Path) -> None:
    before = {port.name for port in session(case.path).get_inputs()}
    assert {port.name for port in session(instrumented(case, tmp_path).path).get_inputs()} == before
    wanted = next(site.id for site in case.sites.activations if site.feeds)
    made = instrument(case.path, case.sites, Requests((Request(wanted, samples=4),)), tmp_path / "one.onnx")
    assert [site for site, outlets in made.outlets.items() if outlets.samples] == [wanted]
    assert {port.name for port in session(made.path).get_inputs()} == before | {TOKENS_INPUT}
