"""Statistics become encodings and a file: as the formulas say, and nothing but the weights' form changes outside."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper

from qonnx_pipe.core.encoding import Encoding
from qonnx_pipe.core.encodings import Encodings
from qonnx_pipe.core.plan import QuantPlan
from qonnx_pipe.core.site import Role
from qonnx_pipe.core.statistics import CalibrationTable, MinMax, Provenance, RunningMinMax, SiteStatistics
from qonnx_pipe.errors import DataError, NumericsError
from qonnx_pipe.graph import io
from qonnx_pipe.graph.sampled import matrix
from qonnx_pipe.observers.weights import encode_weight, quantize_weight
from qonnx_pipe.recipe import load
from qonnx_pipe.stages.plan import plan_stage
from qonnx_pipe.stages.quantize import fold_stage, quantize_stage, start_stage
from tests.unit.recipe.texts import PLAIN, written

pytestmark = pytest.mark.export
PROVENANCE = Provenance("0" * 64, "1" * 64, 8, 2, 60, 4, 16)


@pytest.fixture
def planned(tmp_path: Path, exported: Callable[..., Path]) -> Callable[..., tuple[Path, QuantPlan]]:
    def of(quantize: str = "") -> tuple[Path, QuantPlan]:
        text = PLAIN + (f"quantize:\n{quantize}" if quantize else "")
        model = exported("bert", "text-classification")
        return model, plan_stage(load(written(tmp_path, text)), model)

    return of


def invented(plan: QuantPlan) -> CalibrationTable:
    """Every dimension j of every site lies in [-1 - j/10, 2 + j/10]; the running extremes are half as wide."""
    sites = {}
    for site in plan.sites.activations:
        step = np.arange(1 if site.pairwise else max(1, site.width), dtype=np.float32) / 10
        low, high = -1 - step, 2 + step
        running = RunningMinMax(low / 2, high / 2, np.float32(low.min() / 2), np.float32(high.max() / 2))
        sites[site.id] = SiteStatistics(MinMax(low, high), running)
    return CalibrationTable(sites, PROVENANCE)


def test_activations_are_encoded_by_their_extremes(planned, tmp_path: Path) -> None:
    model, plan = planned("  activations: {range: minmax}\n")
    encodings = quantize_stage(model, plan, invented(plan), tmp_path / "q.onnx")
    wanted = {entry.site.id for entry in plan.quantized if not entry.site.is_weight}
    assert set(encodings.activations) == wanted
    found = encodings.activations["layer.0/ffn.input"]  # 32 dimensions: [-4.1, 5.1]
    assert float(found.scale) == pytest.approx(9.2 / 255, rel=1e-6)
    assert int(found.zero_point) == round(4.1 / (9.2 / 255))


def test_the_range_method_is_obeyed(planned, tmp_path: Path) -> None:
    model, plan = planned("  activations: {range: running_minmax}\n")
    found = quantize_stage(model, plan, invented(plan), tmp_path / "q.onnx").activations["layer.0/ffn.input"]
    assert float(found.scale) == pytest.approx(4.6 / 255, rel=1e-6)


def test_weights_are_encoded_channel_by_channel(planned, tmp_path: Path) -> None:
    model, plan = planned()
    found = quantize_stage(model, plan, invented(plan), tmp_path / "q.onnx").weights
    assert set(found) == {entry.site.id for entry in plan.quantized if entry.site.is_weight}
    site = plan.sites.by_id["layer.1/weight[ffn.output]"]
    arrays = {entry.name: numpy_helper.to_array(entry) for entry in onnx.load(model).graph.initializer}
    expected = np.abs(arrays[site.tensor]).max(axis=0) / 127
    np.testing.assert_allclose(found[site.id].scale, expected, rtol=1e-6)


def test_what_a_caller_sees_of_the_file_stays(planned, tmp_path: Path) -> None:
    model, plan = planned()
    quantize_stage(model, plan, invented(plan), tmp_path / "q.onnx", metadata={"qonnx_pipe.recipe": "mine"})
    before, after = onnx.load(model), onnx.load(tmp_path / "q.onnx")
    assert after.graph.input == before.graph.input
    assert after.graph.output == before.graph.output
    metadata = {entry.key: entry.value for entry in after.metadata_props}
    assert metadata == {entry.key: entry.value for entry in before.metadata_props} | {"qonnx_pipe.recipe": "mine"}
    assert after.producer_name == "qonnx-pipe"
    assert after.ir_version == max(before.ir_version, onnx.helper.find_min_ir_version_for(after.opset_import, True))
    session = ort.InferenceSession(tmp_path / "q.onnx", providers=["CPUExecutionProvider"])
    ids = np.ones((2, 5), np.int64)
    (logits,) = session.run(None, {port.name: ids for port in session.get_inputs()})
    assert np.isfinite(logits).all()
    assert logits.shape == (2, 2)


def test_the_same_inputs_give_the_same_bytes(planned, tmp_path: Path) -> None:
    model, plan = planned()
    first, second = tmp_path / "a.onnx", tmp_path / "b.onnx"
    for target in (first, second):
        quantize_stage(model, plan, invented(plan), target)
    assert first.read_bytes() == second.read_bytes()


def test_smoothing_divides_statistics_and_is_written_down(planned, tmp_path: Path) -> None:
    rules = "  rules:\n    - match: {role: ffn.input}\n      activations: {smooth: 1.0}\n"
    model, plan = planned(rules)
    encodings = quantize_stage(model, plan, invented(plan), tmp_path / "q.onnx")
    assert set(encodings.folds) == {"layer.0/ffn.input", "layer.1/ffn.input"}
    magnitude = 2 + np.arange(32) / 10
    np.testing.assert_allclose(encodings.folds["layer.0/ffn.input"].scale, magnitude, rtol=1e-6)
    plain = encodings.to_json()
    np.testing.assert_allclose(plain["smoothing"]["layer.0/ffn.input"], magnitude, rtol=1e-6)
    assert plain["shifts"] == plain["bias_corrections"] == {}
    # after the division every dimension reaches 1 above; below, the first one reaches furthest: -1/2, the last -4.1/5.1
    found = encodings.activations["layer.0/ffn.input"]
    assert float(found.scale) == pytest.approx((1 + 4.1 / 5.1) / 255, rel=1e-5)


def seen(model: Path, plan: QuantPlan, *, tokens: bool = True) -> tuple[CalibrationTable, dict[str, np.ndarray]]:
    """Real statistics of one batch of random tokens, and the batch."""
    exposed, sites = onnx.load(model), plan.sites.activations
    known = {port.name for port in exposed.graph.output}
    exposed.graph.output.extend(onnx.ValueInfoProto(name=site.tensor) for site in sites if site.tensor not in known)
    ids = np.random.default_rng(4).integers(5, 60, (8, 12))
    ones = {port.name: np.ones_like(ids) for port in exposed.graph.input}
    batch = ones | {"input_ids": ids, "token_type_ids": np.zeros_like(ids)}
    session = ort.InferenceSession(exposed.SerializeToString(), providers=["CPUExecutionProvider"])
    found = {}
    for site, values in zip(sites, session.run([site.tensor for site in sites], batch), strict=True):
        rows = values.reshape(-1, 1 if site.pairwise else values.shape[-1])
        minmax = MinMax(rows.min(axis=0), rows.max(axis=0))
        found[site.id] = SiteStatistics(minmax, samples=None if site.pairwise or not tokens else rows)
    return CalibrationTable(found, PROVENANCE), batch


def logits(model: Path, batch: dict[str, np.ndarray]) -> np.ndarray:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return session.run(None, {port.name: batch[port.name] for port in session.get_inputs()})[0]


FOLD = """  placement: {placement}
  weights: {{dtype: {weights}}}
  rules:
    - match: {{role: [embedding.norm, ffn.input, layer.output, attention.context]}}
      activations: {{dtype: uint16, range: minmax, lowering: fold, shift: true{more}}}
    - match: {{role: [ffn.activation, ffn.output, attention.output, attention.value]}}
      activations: {{dtype: uint16, range: minmax}}
"""


@pytest.mark.parametrize("placement", ["matmul_inputs", "full"])
@pytest.mark.parametrize("more", ["", ", smooth: 0.7", ", granularity: per_embedding"])
def test_folded_ranges_are_those_of_the_folded_tensors(planned, tmp_path: Path, placement: str, more: str) -> None:
    """16-bit activations and float weights leave almost no noise: only a range of another tensor would clip.

    With `full` the neighbours that took in a scale or a shift (the values, the FFN's output) are quantized as well; all
    other sites have 8 bits there, and what they cost is measured without folds.
    """
    noise = {}
    for name, text in (
        ("folded", FOLD.format(placement=placement, weights="float", more=more)),
        (
            "plain",
            FOLD.format(placement=placement, weights="float", more="").replace(", lowering: fold, shift: true", ""),
        ),
    ):
        model, plan = planned(text)
        table, batch = seen(model, plan)
        encodings = quantize_stage(model, plan, table, tmp_path / f"{name}.onnx")
        expected, found = logits(model, batch), logits(tmp_path / f"{name}.onnx", batch)
        noise[name] = float(np.sqrt(np.mean((found - expected) ** 2) / np.mean(expected**2)))
        assert len(encodings.folds) == (6 if name == "folded" else 0)
    assert noise["folded"] < max(2 * noise["plain"], 1e-3)


@pytest.mark.parametrize("more", [", smooth: 0.7", ", granularity: {per_embedding_group: 4}"])
def test_a_training_starts_from_what_would_be_quantized_without_it(planned, tmp_path: Path, more: str) -> None:
    model, plan = planned(FOLD.format(placement="full", weights="int4", more=more))
    table, batch = seen(model, plan)
    plain = quantize_stage(model, plan, table, tmp_path / "plain.onnx")
    teacher, start = tmp_path / "teacher.onnx", tmp_path / "start.onnx"
    first = Encodings.from_json(json.loads(json.dumps(start_stage(model, plan, table, teacher, start).to_json())))
    written = quantize_stage(start, plan, table, tmp_path / "start_q.onnx", trained=first)
    assert written.to_json() == plain.to_json()
    np.testing.assert_array_equal(logits(tmp_path / "start_q.onnx", batch), logits(tmp_path / "plain.onnx", batch))
    np.testing.assert_allclose(logits(teacher, batch), logits(model, batch), rtol=1e-3, atol=1e-4)
    assert (start.read_bytes() != teacher.read_bytes()) == bool(plain.corrections)


def test_a_shift_corrects_the_biases_behind_it_and_bias_correction_all(planned, tmp_path: Path) -> None:
    shifted = "  rules:\n    - match: {role: ffn.input}\n      activations: {smooth: 0.7, shift: true}\n"
    for text, count in (("", 0), (shifted, 2), ("  bias_correction: true\n", 14)):
        model, plan = planned(text)
        table, batch = seen(model, plan)
        encodings = quantize_stage(model, plan, table, tmp_path / "q.onnx")
        assert len(encodings.corrections) == count
        assert all(size > 0 for size in encodings.corrections.values())
        shifts = {"layer.0/ffn.input", "layer.1/ffn.input"} if text == shifted else set()
        assert set(encodings.to_json()["shifts"]) == shifts
        assert np.isfinite(logits(tmp_path / "q.onnx", batch)).all()


@pytest.mark.parametrize(
    "text",
    [
        "  bias_correction: true\n  weights: {rounding: gptq}\n",
        "  rules:\n    - match: {role: ffn.input}\n      activations: {smooth: 0.7, shift: true}\n"
        "  weights: {rounding: gptq}\n",
    ],
)
def test_a_learned_weight_keeps_its_bias(planned, tmp_path: Path, text: str) -> None:
    """Its codes make up for drifted inputs too: to correct them on the float model's inputs would count that twice."""
    model, plan = planned(text)
    table, _ = seen(model, plan)
    weights = [entry for entry in plan.quantized if entry.site.role is Role.WEIGHT]
    learned, left = weights[:-1], weights[-1]
    fold_stage(model, plan, table, tmp_path / "folded.onnx")
    loaded = io.load(tmp_path / "folded.onnx")
    codes = {e.site.id: quantize_weight(w := matrix(loaded, e.site), encode_weight(w, e.spec)) for e in learned}
    found = quantize_stage(model, plan, table, tmp_path / "q.onnx", rounded=codes).corrections
    assert set(found) == (set(left.site.feeds) if plan.bias_correction else set())


@pytest.mark.parametrize(
    "text", ["  bias_correction: true\n", "  rules: [{match: {role: ffn.input}, activations: {lowering: fold}}]\n"]
)
def test_a_table_without_tokens_is_refused(planned, tmp_path: Path, text: str) -> None:
    model, plan = planned(text)
    with pytest.raises(DataError, match="kept no tokens") as caught:
        quantize_stage(model, plan, seen(model, plan, tokens=False)[0], tmp_path / "q.onnx")
    assert "--tokens 512" in caught.value.fix


def test_equalising_scales_contexts(planned, tmp_path: Path) -> None:
    model, plan = planned("  equalise: true\n")
    table, _ = seen(model, plan)
    encodings = quantize_stage(model, plan, table, tmp_path / "q.onnx")
    assert set(encodings.folds) == {"layer.0/attention.context", "layer.1/attention.context"}
    context = table.sites["layer.0/attention.context"].minmax
    scale = encodings.folds["layer.0/attention.context"].scale
    reach = max(0, (context.maximum / scale).max()) - min(0, (context.minimum / scale).min())
    assert float(encodings.activations["layer.0/attention.context"].scale) == pytest.approx(reach / 255, rel=1e-5)


def test_encodings_survive_json(planned, tmp_path: Path) -> None:
    model, plan = planned()
    encodings = quantize_stage(model, plan, invented(plan), tmp_path / "q.onnx")
    plain = json.loads(json.dumps(encodings.to_json(), allow_nan=False))
    assert plain["version"] == 1
    for kind in ("activations", "weights"):
        for site, encoding in getattr(encodings, kind).items():
            back = Encoding.from_json(plain[kind][site])
            np.testing.assert_array_equal(back.scale, encoding.scale)
            np.testing.assert_array_equal(back.zero_point, encoding.zero_point)


def test_a_table_without_a_site_is_refused(planned, tmp_path: Path) -> None:
    model, plan = planned()
    table = invented(plan)
    sites = {site: seen for site, seen in table.sites.items() if site != "layer.1/ffn.input"}
    with pytest.raises(DataError, match=r"no statistics of layer\.1/ffn\.input") as caught:
        quantize_stage(model, plan, CalibrationTable(sites, PROVENANCE), tmp_path / "q.onnx")
    assert "qpipe calibrate" in caught.value.fix
    assert not (tmp_path / "q.onnx").exists()


def test_a_table_without_a_statistic_is_refused_with_the_option_that_gives_it(planned, tmp_path: Path) -> None:
    model, plan = planned("  activations: {range: percentile}\n")
    with pytest.raises(DataError) as caught:
        quantize_stage(model, plan, invented(plan), tmp_path / "q.onnx")
    assert "percentile" in str(caught.value)
    assert "--histogram tensor" in caught.value.fix


def test_a_table_without_tokens_is_refused_with_the_option_that_keeps_them(planned, tmp_path: Path) -> None:
    rule = "{match: {role: head}, activations: {range: cross_entropy}}"
    model, plan = planned(f"  placement: full\n  rules: [{rule}]\n")
    with pytest.raises(DataError, match="no samples") as caught:
        quantize_stage(model, plan, invented(plan), tmp_path / "q.onnx")
    assert caught.value.where == "head"
    assert "--tokens 512" in caught.value.fix


def test_nan_in_statistics_is_refused_by_site(planned, tmp_path: Path) -> None:
    model, plan = planned()
    table = invented(plan)
    table.sites["layer.0/ffn.input"].minmax.maximum[3] = np.nan
    with pytest.raises(NumericsError) as caught:
        quantize_stage(model, plan, table, tmp_path / "q.onnx")
    assert caught.value.where == "layer.0/ffn.input"
