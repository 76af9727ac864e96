"""`quantize.qat` on a tiny model: what is trained is what is executed, resumed to the same bytes, or refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from qonnx_pipe.core.encoding import Encoding
from qonnx_pipe.core.numerics import dequantize, quantize, sqnr_db
from qonnx_pipe.core.plan import QuantPlan
from qonnx_pipe.recipe import load
from qonnx_pipe.stages.round import read_rounding
from tests.e2e.learning import Run, write_learner

pytestmark = pytest.mark.export

QAT = """\
version: 1
name: small
model: {source: float, task: text-classification}
data:
  calibration: {source: texts.csv, samples: 32, max_length: 16}
  train: {source: texts.csv, batch_size: 8, max_length: 16}
  validation: {source: texts.csv, max_length: 16}
  evaluation: {source: texts.csv, split: [validation, test], max_length: 16}
quantize:
  placement: full
  weights: {dtype: int4, granularity: per_channel}
  embeddings: {dtype: int8, granularity: per_row}
  rules:
    - match: {role: embedding.word}
      weights: {dtype: int2, granularity: {per_group: 16}, range: mse}
    - match: {role: ffn.activation}
      weights: {granularity: {per_output_group: 4}}
  qat: {epochs: 2, learning_rate: 0.001, loss: {hidden: 0.1, attention: 0.1}}
validate: {latency: {shapes: []}, gates: {agreement: 0.9, trained_sqnr_db: 40}}
"""
FOLDED = (
    QAT[: QAT.index("quantize:")].replace("name: small", "name: folded")
    + """\
quantize:
  placement: full
  weights: {dtype: int8, granularity: per_channel}
  embeddings: {dtype: int8, granularity: per_row}
  rules:
    - match: {role: [embedding.norm, attention.context]}
      activations: {lowering: fold, shift: true}
    - match: {role: ffn.input}
      activations: {smooth: 0.7, shift: true}
    - match: {role: layer.output, layer: 0}
      activations: {granularity: {per_embedding_group: 4}, permute: range, lowering: fold}
    - match: {role: residual.sum}
      activations: {granularity: {per_embedding_group: 4}, permute: range, share: model}
  qat: {epochs: 2, learning_rate: 0.001, loss: {hidden: 0.1}}
validate: {latency: {shapes: []}, gates: {agreement: 0.9}}
"""
)
ROUNDED = QAT.replace("name: small", "name: rounded").replace(
    "weights: {dtype: int4, granularity: per_channel}",
    "gptq: {tokens: 256}\n  weights: {dtype: int4, granularity: per_channel, rounding: gptq}",
)
RUNS = pytest.mark.parametrize("recipe", ["small", "folded", "rounded"])


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A float classifier of texts that have no word in common, and the recipe that quantizes it."""
    from qonnx_pipe import pipeline
    from qonnx_pipe.store import Store

    folder = tmp_path_factory.mktemp("qat")
    rows = write_learner(folder)
    (folder / "bare.csv").write_text("\n".join(["text", *(row.partition(",")[0] for row in rows)]) + "\n")
    (folder / "small.yaml").write_text(QAT)
    (folder / "folded.yaml").write_text(FOLDED)
    (folder / "rounded.yaml").write_text(ROUNDED)
    store = Store(folder / "cache")
    entry = pipeline.train(load(folder / "learned.yaml"), lambda _: None, store)
    store.materialize(entry, entry.files, folder / "float")
    for name in ("small", "folded", "rounded"):
        pipeline.run(load(folder / f"{name}.yaml"), folder / name, lambda _: None, store=store)
    return folder


def read(path: Path) -> Any:
    return json.loads(path.read_bytes())


def test_what_a_run_leaves(origin: Path) -> None:
    run = origin / "small"
    facts = read(run / "qat.json")
    assert len(facts["epochs"]) == 2
    states = [facts["untrained"], *facts["epochs"]]
    best = max(states, key=lambda state: (state["accuracy"], -state["held_out_loss"]))
    assert facts["chosen"] == {"epoch": states.index(best), "by": "accuracy"}
    assert best["held_out_loss"] < facts["untrained"]["held_out_loss"]
    assert facts["accuracy"]["validation"]["value"] == best["accuracy"]
    assert read(run / "verdict.json")["passed"]
    assert f"the weights and ranges of epoch <strong>{facts['chosen']['epoch']}" in (run / "report.html").read_text()
    kinds = {artifact["kind"] for artifact in read(run / "manifest.json")["artifacts"]}
    assert np.load(run / "trained_rows.npy").shape == (facts["examples"]["validation"], 2)
    assert "Beside the fake-quantized model that was trained" in (run / "report.html").read_text()
    assert {"qat:trained.onnx", "qat:qat.json", "quantize:model.onnx"} <= kinds


def test_the_file_holds_exactly_what_was_trained(origin: Path) -> None:
    """Encodings are the trained ones; codes are numpy's of the trained weights, wherever 8 bits lie unpacked."""
    run = origin / "small"
    trained, written = read(run / "qat.json")["encodings"], read(run / "encodings.json")
    assert written == trained
    floats = initializers(run / "trained.onnx")
    stored = [array for array in initializers(run / "model.onnx").values() if array.dtype == np.int8]
    tables = [entry for entry in plan_of(run).quantized if entry.site.role in ("embedding.position", "embedding.type")]
    assert len(tables) == 2
    for entry in tables:
        codes = quantize(floats[entry.site.tensor], Encoding.from_json(trained["weights"][entry.site.id]))
        assert any(np.array_equal(codes, array) for array in stored), entry.site.id
    groups = np.array(trained["weights"]["layer.0/weight[ffn.activation]"]["scale"]).reshape(4, -1)
    assert np.all(groups == groups[:, :1]), "a group keeps one scale"
    assert len(np.unique(groups)) == 4


def test_behind_folds_too(origin: Path) -> None:
    """Scales, shifts and orders are recorded as of a model that is not trained; every weight has learned and fits."""
    run = origin / "folded"
    trained, written = read(run / "qat.json")["encodings"], read(run / "encodings.json")
    assert written == trained
    layers = ("embedding.norm", "layer.0/ffn.input", "layer.1/ffn.input", "layer.0/layer.output")
    assert {*layers, "layer.0/attention.context", "layer.1/attention.context"} == set(written["smoothing"])
    assert set(layers) <= set(written["shifts"])
    assert written["orders"]
    assert len(written["bias_corrections"]) == 8, "behind a shift, where it starts"
    graph, floats = trained_graph(origin, "folded"), initializers(run / "trained.onnx")
    stored = [array for array in initializers(run / "model.onnx").values() if array.dtype == np.int8]
    weights = [site for site in graph.sites.values() if site.is_weight]
    assert len(weights) == 17
    for site in weights:
        weight = floats[site.tensor].T if site.tensor in graph._turned else floats[site.tensor]
        codes = quantize(weight, Encoding.from_json(trained["weights"][site.id]))
        assert any(np.array_equal(codes, array) for array in stored), site.id


@RUNS
def test_the_executed_logits_are_the_trained_ones(origin: Path, recipe: str) -> None:
    """40 dB: where sums are taken in another order, a value on the edge of two codes may fall to the other one."""
    import torch

    from qonnx_pipe.runtime.session import open_session, run_session

    run = origin / recipe
    batch = some_batch(run)
    with torch.inference_mode():
        expected = trained_graph(origin, recipe)({name: torch.from_numpy(array) for name, array in batch.items()})[
            "logits"
        ]
    found = run_session(open_session(run / "model.onnx"), batch, model=run / "model.onnx")["logits"]
    assert sqnr_db(expected.numpy(), found) >= 40


@RUNS
def test_every_site_gives_the_codes_that_were_trained(origin: Path, recipe: str) -> None:
    """Site by site, from the executed values in front of it: a neighbouring code at most, at one value in 10⁴.

    A float sum in another order is wrong by some 10⁻⁶ of a step; 10⁻⁴ leaves room for one value among the few here.
    """
    import torch

    run, batch = origin / recipe, some_batch(origin / recipe)
    model, graph = onnx.load(run / "model.onnx"), trained_graph(origin, recipe)
    quantizers = {
        node.input[0].removesuffix("_float"): node for node in model.graph.node if node.op_type == "QuantizeLinear"
    }
    model.graph.output.extend(
        onnx.helper.make_tensor_value_info(node.output[0], onnx.TensorProto.UINT8, None) for node in quantizers.values()
    )
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    codes = dict(zip(names, session.run(names, batch), strict=True))
    entries = [entry for entry in plan_of(run).quantized if entry.lowering != "split"]  # these have other operators
    sites = [entry.site for entry in entries if not entry.site.is_weight]
    assert {site.tensor for site in sites} <= quantizers.keys()
    steps = list[np.ndarray]()

    def comparing(executed: np.ndarray, encoding: Encoding) -> Any:
        real = dequantize(executed, encoding)

        def compare(values: Any) -> Any:
            steps.append(np.rint(np.abs(values.numpy() - real) / encoding.scale).ravel())
            return torch.from_numpy(real)

        return compare

    encodings = graph.encodings()
    hooks = {site.tensor: comparing(codes[quantizers[site.tensor].output[0]], encodings[site.id]) for site in sites}
    with torch.inference_mode():
        graph({name: torch.from_numpy(array) for name, array in batch.items()}, hooks)
    found = np.concatenate(steps)
    assert len(steps) == len(sites)
    assert np.count_nonzero(found) <= 1e-4 * found.size
    assert found.max() <= 1


def test_train_is_the_run_up_to_there(qpipe: Run) -> None:
    code, out, err = qpipe("train", "small.yaml", "--out", "trained")
    assert code == 0, err
    assert all(line.endswith("unchanged") for line in err.splitlines())
    assert "epoch 2: loss" in out
    assert out.count(", kept") == 1
    assert "trained trained/trained.onnx" in out


@RUNS
def test_ctrl_c_resumes_to_the_same_bytes(
    qpipe: Run, place: Path, monkeypatch: pytest.MonkeyPatch, recipe: str
) -> None:
    from qonnx_pipe.source import training

    learn, learned = training._learn, []

    def stop(*arguments: Any, number: int, **others: Any) -> float:
        if number == 1 and not learned:
            learned.append(number)
            raise KeyboardInterrupt
        return learn(*arguments, number=number, **others)

    monkeypatch.setattr(training, "_learn", stop)
    again = ("run", f"{recipe}.yaml", "--out", "halves", "--from", "qat", "--until", "qat")
    assert qpipe(*again)[0] == 5
    assert qpipe("run", f"{recipe}.yaml", "--out", "halves", "--until", "qat", "--set", "quantize.qat.seed=0")[0] == 0
    assert (place / "halves/trained.onnx").read_bytes() == (place / recipe / "trained.onnx").read_bytes()


@pytest.mark.parametrize(
    ("changes", "code", "said"),
    [
        (["quantize.qat.learning_rate=1.0e+30"], 3, ("the loss is", "of epoch", "lower quantize.qat.learning_rate")),
        (["data.train.source=bare.csv"], 3, ("texts have no label", "quantize.qat.loss.labels: 0")),
        (["quantize.bias_correction=true"], 2, ("quantize.bias_correction", "not together with qat")),
        (["quantize.equalise=true"], 2, ("quantize.equalise", "not together with qat")),
        (["quantize.qat.loss.labels=0", "quantize.qat.loss.logits=0", "quantize.qat.loss.hidden=0"], 0, ()),
        (["quantize.qat.ranges=current"], 2, ("ranges: current",)),
        (["quantize.activations.granularity=per_embedding"], 2, ("per_embedding as split changes the weights' rows",)),
        (["quantize.qat=null"], 2, ("validate.gates.trained_sqnr_db", "nothing is trained")),
        (["train.epochs=1"], 2, ("a recipe trains the float model or the quantized one",)),
    ],
)
def test_what_is_refused(qpipe: Run, changes: list[str], code: int, said: tuple[str, ...]) -> None:
    options = [word for change in changes for word in ("--set", change)]
    found, _, err = qpipe("run", "small.yaml", "--out", "other", "--until", "qat", *options)
    assert found == code, err
    assert all(text in err for text in said), err
    assert "Traceback" not in err


def test_texts_without_labels_are_enough_for_distillation(qpipe: Run, place: Path) -> None:
    options = ["--set", "quantize.qat.loss.labels=0", "--set", "data.train.source=bare.csv"]
    code, _, err = qpipe("run", "small.yaml", "--out", "other", "--until", "qat", *options)
    assert code == 0, err
    facts = read(place / "other/qat.json")
    assert facts["epochs"][0]["accuracy"] is not None, "validation has labels"
    losses = [state["held_out_loss"] for state in (facts["untrained"], *facts["epochs"])]
    assert facts["chosen"] == {"epoch": losses.index(min(losses)), "by": "held_out_loss"}


def test_a_training_that_helps_nothing_leaves_the_model_as_it_was(qpipe: Run, place: Path) -> None:
    options = ["--set", "quantize.qat.learning_rate=0.1", "--set", "quantize.qat.loss.labels=0"]
    code, _, err = qpipe("run", "small.yaml", "--out", "other", "--until", "qat", *options)
    assert code == 0, err
    said = " ".join(err.split())
    assert "no epoch is better than the untrained model, which is kept: lower quantize.qat.learning_rate" in said
    facts = read(place / "other/qat.json")
    assert facts["chosen"]["epoch"] == 0
    assert facts["accuracy"]["validation"]["value"] == facts["untrained"]["accuracy"]


def test_a_training_starts_from_learned_codes(qpipe: Run, place: Path, origin: Path) -> None:
    """Where no epoch is better, they are what is executed."""
    options = ["--set", "quantize.qat.learning_rate=0.1", "--set", "quantize.qat.loss.labels=0"]
    code, _, err = qpipe("run", "rounded.yaml", "--out", "other", "--until", "quantize", *options)
    assert code == 0, err
    facts, learned = read(place / "other/qat.json"), read_rounding(place / "other/rounding.npz")
    assert facts["chosen"]["epoch"] == 0
    assert len(learned) == 14, "two layers of six, pooler and head"
    graph, floats = trained_graph(place, "other", origin / "rounded.yaml"), initializers(place / "other/trained.onnx")
    before, moved = initializers(place / "other/float/model.onnx"), 0
    for site in (site for site in graph.sites.values() if site.id in learned):
        start, plain = floats[site.tensor], before[site.tensor.removesuffix("_other")]
        encoding = Encoding.from_json(facts["encodings"]["weights"][site.id])
        codes, nearest = (quantize(w.T if site.tensor in graph._turned else w, encoding) for w in (start, plain))
        np.testing.assert_array_equal(codes, learned[site.id].codes)
        moved += np.count_nonzero(codes != nearest)
    assert moved, "not those of rounding to the nearest"


def test_a_held_out_loss_that_is_no_number(qpipe: Run, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    losses = iter([0.5, float("nan")])
    monkeypatch.setattr("qonnx_pipe.source.qat.Student.mean_loss", lambda *_: next(losses))
    code, _, err = qpipe("run", "small.yaml", "--out", "other", "--until", "qat", "--set", "quantize.qat.seed=5")
    assert code == 3, err
    assert all(text in err for text in ("the loss on the held-out examples is nan", "lower quantize.qat.learning_rate"))
    assert not (place / "other/qat.json").exists()


def initializers(path: Path) -> dict[str, np.ndarray]:
    return {one.name: onnx.numpy_helper.to_array(one) for one in onnx.load(path).graph.initializer}


def plan_of(run: Path) -> QuantPlan:
    return QuantPlan.from_json(read(run / "plan.json"))


def trained_graph(origin: Path, run: str, recipe: Path | None = None) -> Any:
    """The network in torch, with trained weights and encodings; a run is called after its recipe, or `recipe` is."""
    from qonnx_pipe.graph.network import read_network
    from qonnx_pipe.source.qat import QuantizedGraph

    settings, folder = load(recipe or origin / f"{run}.yaml").quantize.qat, origin / run
    assert settings is not None
    stored = read(folder / "qat.json")["encodings"]
    encodings = {site: Encoding.from_json(one) for site, one in (stored["activations"] | stored["weights"]).items()}
    return QuantizedGraph(read_network(folder / "trained.onnx"), plan_of(folder), encodings, settings)


def some_batch(run: Path) -> dict[str, np.ndarray]:
    ids = np.random.default_rng(1).integers(5, 100, (16, 12))
    return {name: ids if name == "input_ids" else np.full_like(ids, name == "attention_mask") for name in names(run)}


def names(run: Path) -> list[str]:
    return [value.name for value in onnx.load(run / "model.onnx").graph.input]
