"""The verdict on tiny models: figures, gates, errors, and a provider that dies."""

import json
import os
import re
import signal
from dataclasses import replace

import numpy as np
import pytest

from qonnx_pipe import tasks
from qonnx_pipe.core.examples import Batch
from qonnx_pipe.core.partition import Partition
from qonnx_pipe.core.site import Skipped
from qonnx_pipe.core.verdict import Result
from qonnx_pipe.errors import DataError, ModelError, NumericsError, ProviderError, UsageError
from qonnx_pipe.runtime import providers as execution
from qonnx_pipe.runtime import race
from qonnx_pipe.runtime.census import Profile
from qonnx_pipe.runtime.client import Installed, Limits, Worker
from qonnx_pipe.runtime.providers import cpu
from qonnx_pipe.stages import validate as stage
from qonnx_pipe.stages.validate import validate
from qonnx_pipe.stages.validate.rows import Trained, compared_rows
from tests.zoo import graphs
from tests.zoo.interpreters import script

CLASSES = ("negative", "positive")


@pytest.fixture(autouse=True)
def _short_rounds(monkeypatch):
    monkeypatch.setattr(race, "ROUND_S", 0.01)


def batches(labels=CLASSES, *, count: int = 3, size: int = 8) -> list[Batch]:
    rng = np.random.default_rng(5)
    found = []
    for _ in range(count):
        ids = rng.integers(1, 64, (size, 6))
        mask = np.ones_like(ids)
        mask[0, 4:] = 0
        names = tuple(labels[i] for i in rng.integers(0, len(labels), size))
        found.append(Batch({"input_ids": ids * mask, "attention_mask": mask}, names))
    return found


def judge(
    model, reference, *, data=None, task="text-classification", providers=("cpu",), shapes=(), gates=None, **more
):
    data = batches() if data is None else data
    return validate(
        model,
        reference,
        task=task,
        batches=data,
        providers=providers,
        shapes=shapes,
        gates=gates or {},
        threads=1,
        **more,
    )


@pytest.fixture
def models(tmp_path):
    """A classifier and its quantized form."""
    quantized = graphs.token_model(tmp_path / "q.onnx", quantized=True, classes=CLASSES)
    return quantized, graphs.token_model(tmp_path / "f.onnx", classes=CLASSES)


def test_a_whole_verdict(models):
    said = []
    gates = {"accuracy_drop": 0.5, "int8_matmuls": 0.5, "sqnr_db": 20.0, "agreement": 0.5, "size_ratio": 1.0}
    skipped = [Skipped("layer.0/ffn.input", "no statistics")]
    verdict = judge(*models, shapes=[(2, 8)], gates=gates, skipped=skipped, rounds=2, progress=said.append)
    plain, quantized = verdict.results
    assert verdict.passed
    assert [gate.name for gate in verdict.gates] == list(gates)
    assert (plain.model, quantized.model) == ("float", "quantized")
    assert plain.fidelity is None
    assert quantized.accuracy.n == 24
    assert quantized.accuracy_drop.value == pytest.approx(plain.accuracy.value - quantized.accuracy.value)
    assert 20 < quantized.fidelity.sqnr_db < 60
    assert (plain.kernels.integer, plain.kernels.total) == (0, 2)
    assert (quantized.kernels.integer, quantized.kernels.total) == (1, 2)
    assert quantized.kernels.floats[0].reason == "weight not quantized"
    assert [latency.sequence for latency in quantized.latency] == [8]
    assert plain.latency[0].speedup == 1.0
    assert quantized.latency[0].speedup > 0
    assert verdict.size.float_bytes == models[1].stat().st_size
    assert verdict.size.parts.total == verdict.size.quantized_bytes == models[0].stat().st_size
    assert verdict.size.nominal_bytes == verdict.size.parts.weights + verdict.size.parts.embeddings
    assert verdict.skipped == tuple(skipped)
    assert verdict.machine["threads"] == 1
    assert any("2×8" in text for text in said)
    json.dumps(verdict.to_json(), allow_nan=False)


def test_accuracy_is_what_a_hand_count_gives(models):
    data = batches()
    table = np.random.default_rng(7).normal(0, 1, (64, graphs.WIDTH)).astype(np.float32)
    head = np.random.default_rng(3).normal(0, 1, (graphs.WIDTH, 2)).astype(np.float32)
    right = 0
    for batch in data:
        logits = (table[batch.inputs["input_ids"]] @ graphs.weight()).mean(axis=1) @ head
        right += sum(CLASSES[i] == label for i, label in zip(logits.argmax(axis=1), batch.labels, strict=True))
    assert judge(*models, data=data).results[0].accuracy.value == right / 24


def test_a_model_against_itself_is_perfect(models):
    quantized = judge(models[1], models[1]).results[1]
    assert (quantized.fidelity.sqnr_db, quantized.fidelity.agreement) == (200.0, 1.0)
    assert quantized.accuracy_drop.value == 0.0


def test_a_trained_model_is_held_against_what_was_trained(models):
    """Here the torch model is played by the float one: the file is as far from it as from the float file."""
    held = batches()
    rows = compared_rows(Worker(models[1]), held, tasks.find("text-classification"))
    gates = {"trained_sqnr_db": 20.0}
    verdict = judge(*models, data=held, gates=gates, trained=Trained(held, rows))
    plain, quantized = verdict.results
    assert verdict.passed
    assert quantized.fidelity.trained_sqnr_db == pytest.approx(quantized.fidelity.sqnr_db)
    assert plain.fidelity is None
    with pytest.raises(UsageError, match="needs a model that was trained"):
        judge(*models, data=held, gates=gates)


def test_a_missed_gate_fails_the_verdict(models):
    verdict = judge(*models, gates={"int8_matmuls": 1.0, "size_ratio": 1.0})
    assert [(gate.name, gate.passed) for gate in verdict.gates] == [("int8_matmuls", False), ("size_ratio", True)]
    assert not verdict.passed
    assert verdict.provider_failures == ()


def test_embeddings_need_no_labels(tmp_path):
    data = [Batch(batch.inputs, (None,) * len(batch)) for batch in batches()]
    pair = graphs.token_model(tmp_path / "q.onnx", quantized=True), graphs.token_model(tmp_path / "f.onnx")
    verdict = judge(*pair, data=data, task="feature-extraction", gates={"agreement": 0.5})
    assert verdict.passed
    assert verdict.results[1].accuracy is None
    with pytest.raises(DataError, match="accuracy_drop needs labels"):
        judge(*pair, data=data, task="feature-extraction", gates={"accuracy_drop": 0.1})


def test_bad_requests(models, tmp_path):
    with pytest.raises(DataError, match="'sport'"):
        judge(*models, data=batches(("sport",)))
    with pytest.raises(DataError, match="no evaluation examples"):
        judge(*models, data=[])
    with pytest.raises(UsageError, match="unknown gate"):
        judge(*models, gates={"beauty": 1.0})
    with pytest.raises(UsageError, match="cannot be validated"):
        judge(*models, task="translation")
    with pytest.raises(ProviderError, match="unknown execution provider"):
        judge(*models, providers=["tpu"])
    with pytest.raises(ModelError, match="no such ONNX file"):
        judge(tmp_path / "none.onnx", models[1])


def test_a_truncated_model(models):
    models[0].write_bytes(models[0].read_bytes()[:700])
    with pytest.raises(ModelError, match="not a readable ONNX model"):
        judge(*models)


def test_outputs_that_are_no_numbers(models, tmp_path):
    broken = graphs.token_model(tmp_path / "b.onnx", classes=CLASSES, broken=True)
    verdict = judge(broken, models[1], gates={"sqnr_db": 22.0, "accuracy_drop": 0.1})
    assert "the outputs of 24 of 24 examples hold NaN" in verdict.results[1].error
    assert [gate.value for gate in verdict.gates] == [None, None]
    assert not verdict.passed
    assert verdict.provider_failures == ()
    with pytest.raises(NumericsError, match="hold NaN"):
        judge(models[0], broken)


def test_a_provider_that_dies_is_a_result(models, monkeypatch):
    """The quantized model's worker is killed while it predicts; the float one's figures stand."""
    plain = Worker.predict

    def fragile(self, inputs):
        if self.model == models[0]:
            os.kill(self._process.pid, signal.SIGKILL)
        return plain(self, inputs)

    monkeypatch.setattr(Worker, "predict", fragile)
    verdict = judge(*models, shapes=[(1, 4)], rounds=1, gates={"speedup": 1.0, "size_ratio": 1.0})
    whole, dead = verdict.results
    assert dead.error.startswith("provider failed: cpu: killed by signal 9")
    assert verdict.provider_failures == (dead,)
    assert whole.latency[0].p50_ms > 0
    assert [(gate.name, gate.value is None) for gate in verdict.gates] == [("speedup", True), ("size_ratio", False)]


def test_a_provider_that_dies_while_timing(models, monkeypatch):
    plain = Worker.time

    def fragile(self, inputs, **options):
        if self.model == models[0]:
            os.kill(self._process.pid, signal.SIGKILL)
        return plain(self, inputs, **options)

    monkeypatch.setattr(Worker, "time", fragile)
    whole, dead = judge(*models, shapes=[(1, 4), (1, 5)], rounds=1).results
    assert "killed by signal 9" in dead.error
    assert dead.kernels is not None
    assert [latency.sequence for latency in whole.latency] == [5]
    assert whole.latency[0].speedup == 1.0


def test_a_reference_that_dies_leaves_the_others_judged(models, monkeypatch):
    """Without its predictions nothing can be compared, but accuracy and kernels are what they are."""
    plain = Worker.predict

    def fragile(self, inputs):
        if self.model == models[1]:
            os.kill(self._process.pid, signal.SIGKILL)
        return plain(self, inputs)

    monkeypatch.setattr(Worker, "predict", fragile)
    verdict = judge(*models, gates={"sqnr_db": 20.0, "int8_matmuls": 0.5})
    dead, whole = verdict.results
    assert dead.error.startswith("provider failed: cpu: killed by signal 9")
    assert (whole.error, whole.fidelity, whole.accuracy_drop) == ("", None, None)
    assert whole.accuracy.n == 24
    assert [gate.value for gate in verdict.gates] == [None, 0.5]


def test_a_provider_that_is_not_installed_is_a_result(models):
    verdict = judge(*models, providers=["xnnpack", "cpu"], gates={"sqnr_db": 20.0, "size_ratio": 1.0})
    assert [(one.provider, one.model) for one in verdict.results] == [
        *(("xnnpack", "float"), ("xnnpack", "quantized"), ("cpu", "float"), ("cpu", "quantized"))
    ]
    assert all("'xnnpack' is not available here" in one.error for one in verdict.provider_failures)
    assert verdict.provider_failures == verdict.results[:2]
    assert verdict.results[3].fidelity.sqnr_db > 20
    assert [gate.passed for gate in verdict.gates] == [False, True], "what one provider cannot show has not passed"
    assert not verdict.passed


@pytest.mark.parametrize(
    ("lines", "seconds", "error"),
    [
        (["exec sleep 60"], 0.2, "no answer to 'check' for 0.2 s: killed"),
        (["kill -9 $$"], 60.0, r"killed by signal 9 \(SIGKILL\)"),
        (["echo no such library >&2", "exit 127"], 60.0, "exit status 127; last words: no such library"),
        (["exec cat"], 60.0, "which is no answer"),
        (None, 60.0, "cannot be started: No such file"),
    ],
)
def test_a_bad_interpreter_costs_its_provider_alone(models, monkeypatch, lines, seconds, error):
    path = models[0].with_name("python")
    if lines is not None:
        script(path, *lines)
    monkeypatch.setattr(stage, "_baseline", lambda *_: Result("cpu", "float"))  # whose worker the limit is not for
    verdict = judge(*models, providers=["openvino"], interpreters={"openvino": path}, limits=Limits(seconds))
    verdict = replace(verdict, results=verdict.results[1:])
    assert [bool(re.search(error, one.error)) for one in verdict.results] == [True, True]
    assert all(one.error.startswith("provider failed: ") for one in verdict.results)


def test_memory_that_is_refused_is_a_result(models):
    verdict = judge(*models, limits=Limits(memory_mb=1))
    assert all("memory limit 1 MB" in one.error for one in verdict.results)
    assert len(verdict.provider_failures) == 2


@pytest.fixture
def elsewhere(monkeypatch):
    """A provider of that name, whose workers run on the CPU."""
    plain = Worker.__init__

    def disguised(self, model, provider="cpu", **options):
        plain(self, model, provider, **options)
        self._session["provider"] = "cpu"

    monkeypatch.setattr(Worker, "__init__", disguised)
    monkeypatch.setattr(Worker, "check", lambda self: Installed("1.0", "Chip", "1.20", "python"))
    monkeypatch.setattr(execution, "check_name", lambda _: None)
    monkeypatch.setattr(execution, "find", lambda _: cpu.PROVIDER)
    return "elsewhere"


@pytest.mark.parametrize(
    ("method", "failure"),
    [
        ("predict", ModelError("onnxruntime cannot load the model: Unsupported model IR version")),
        ("census", ModelError("onnxruntime cannot load the model: Unsupported model IR version")),
        ("time", DataError("the inputs do not fit the model: Got 4 Expected 128")),
    ],
)
def test_what_the_cpu_takes_and_another_provider_refuses_is_its_failure(
    models, elsewhere, monkeypatch, method, failure
):
    plain = getattr(Worker, method)

    def picky(self, *arguments, **options):
        if (self.provider, self.model) == (elsewhere, models[0]):
            raise type(failure)(failure.what, where=str(self.model))
        return plain(self, *arguments, **options)

    monkeypatch.setattr(Worker, method, picky)
    verdict = judge(*models, providers=[elsewhere, "cpu"], shapes=[(1, 4)], rounds=1)
    assert [one.error for one in verdict.results] == ["", f"provider failed: {failure.what}", "", ""]
    assert (verdict.machine[elsewhere], verdict.machine["elsewhere_device"]) == ("1.0", "Chip")


def test_an_interpreter_without_its_provider(models, tmp_path):
    with pytest.raises(UsageError, match="given for openvino, which is not asked to run"):
        judge(*models, interpreters={"openvino": tmp_path})
    with pytest.raises(ProviderError, match="unknown execution provider 'opnvino'"):
        judge(*models, interpreters={"opnvino": tmp_path})


def test_kernels_that_a_compiler_does_not_tell_are_missing_not_zero(models, monkeypatch):
    plain = Worker.census

    def silent(self, inputs):
        events = tuple(replace(event, node="subgraph_1", op_type="subgraph") for event in plain(self, inputs).events)
        return Profile(None, events[:1], Partition(7, 1))

    monkeypatch.setattr(Worker, "census", silent)
    verdict = judge(*models, gates={"int8_matmuls": 0.5})
    float_one, quantized = verdict.results
    assert (quantized.kernels, quantized.partition) == (None, Partition(7, 1))
    assert (float_one.kernels.integer, float_one.kernels.total) == (0, 2), "a float file has no integer kernels"
    assert verdict.gates[0].value is None


def test_per_axis_activations_are_a_provider_failure_with_onnxruntimes_words(tmp_path, models, capfd):
    from onnx import helper

    nodes, constants = graphs.quantized_activation("embedded", "operand", per_axis=True)
    more, codes = graphs.quantized_weight("w", graphs.weight())
    table = np.random.default_rng(0).normal(size=(64, graphs.WIDTH)).astype(np.float32)
    ids = [graphs.tensor(name, ["batch", "sequence"], 7) for name in ("input_ids", "attention_mask")]
    chain = [
        helper.make_node("Gather", ["table", "input_ids"], ["embedded"], "embed"),
        *nodes,
        *more,
        helper.make_node("MatMul", ["operand", "w"], ["last_hidden_state"], "matmul"),
    ]
    output = graphs.tensor("last_hidden_state", ["batch", "sequence", graphs.WIDTH])
    model = graphs.save(tmp_path / "axis.onnx", chain, ids, [output], {**constants, **codes, "table": table})
    reference = graphs.token_model(tmp_path / "plain.onnx")
    result = judge(model, reference, task="feature-extraction").results[1]
    assert result.error.startswith("provider failed: cpu: ")
    assert "must be a scalar" in result.error
