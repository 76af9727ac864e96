"""Validate: a quantized model beside its float reference: accuracy, fidelity, speed, size, executed kernels, gates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from qonnx_pipe import tasks
from qonnx_pipe.core.encoding import FloatArray
from qonnx_pipe.core.examples import Batch
from qonnx_pipe.core.gates import check_names, judge
from qonnx_pipe.core.kernels import FLOAT_ACTIVATION, FLOAT_WEIGHT, Kernels, executed
from qonnx_pipe.core.numerics import sqnr_db
from qonnx_pipe.core.partition import Partition
from qonnx_pipe.core.site import Skipped
from qonnx_pipe.core.verdict import PROVIDER_FAILED, Fidelity, Result, Size, Verdict
from qonnx_pipe.errors import DataError, ModelError, NumericsError, ProviderError, QpipeError, UsageError
from qonnx_pipe.graph.linears import linears
from qonnx_pipe.graph.size import breakdown, coarse, low_bit_bytes, nominal_bytes, size_parts
from qonnx_pipe.graph.summary import id2label, static_shape
from qonnx_pipe.runtime import machine
from qonnx_pipe.runtime import providers as execution
from qonnx_pipe.runtime.client import LIMITS, Limits, Worker
from qonnx_pipe.runtime.race import ROUNDS, Racer, latencies, race
from qonnx_pipe.runtime.shapes import from_batches, of_shape
from qonnx_pipe.stages.validate.rows import Trained, compared_rows
from qonnx_pipe.tasks import Labels, Task

REFERENCE_PROVIDER = "cpu"
"""Where the float model runs for the predictions that everything is compared with."""

NO_NOISE_DB = 200.0
"""Reported SQNR of equal tensors (it would be infinite, which JSON does not have); float32 ends near 150 dB."""

MODELS = ("float", "quantized")

KERNEL_SHAPE = (1, 16)
"""Batch and sequence at which kernels are counted when no shape is timed; which kernels run depends on none."""

UNKNOWN = "unknown"
"""Kernel of a node that a provider compiled without telling about it."""

Shape = tuple[int, int]
Paths = tuple[Path, Path]
"""The float model and the quantized one."""

Say = Callable[[str], None]
"""Hears what is being done, one line at a time."""


@dataclass(frozen=True, eq=False)
class _Evaluation:
    """What both models are judged on: batches, labels in the model's words, class names; and how they run."""

    task: Task
    batches: Sequence[Batch]
    labels: Labels
    id2label: Mapping[str, str]
    shapes: Sequence[Shape]
    threads: int | None
    rounds: int
    fallback: bool
    limits: Limits
    interpreters: Mapping[str, Path]
    trained: Trained | None

    def worker(self, path: Path, provider: str) -> Worker:
        """A worker for a model on a provider, under that provider's interpreter."""
        python = self.interpreters.get(provider)
        return Worker(path, provider, threads=self.threads, fallback=self.fallback, limits=self.limits, python=python)


@dataclass(frozen=True, eq=False)
class _Predictions:
    """Compared tensor [m, k] and answers, one an example, of one model on one provider."""

    rows: FloatArray
    answers: tuple[str, ...]


def validate(
    model: Path,
    reference: Path,
    *,
    task: str,
    batches: Sequence[Batch],
    providers: Sequence[str],
    shapes: Sequence[Shape],
    gates: Mapping[str, float],
    skipped: Sequence[Skipped] = (),
    threads: int | None = None,
    rounds: int = ROUNDS,
    fallback: bool = True,
    limits: Limits = LIMITS,
    interpreters: Mapping[str, Path] | None = None,
    trained: Trained | None = None,
    progress: Say | None = None,
) -> Verdict:
    """Judge `model` against the float `reference` on every provider; `progress` hears what is being done.

    Accuracy and fidelity come from all `batches`; everything is compared with the float model on the CPU. Speed is
    timed at each of `shapes` (batch, sequence) on the batches' own tokens, or at the only shape that `model` takes; the
    gate on it takes the worst shape's median. A provider that is missing, fails, or exceeds `limits`, or a quantized
    model whose outputs are no numbers, is a result with an error, and its gates fail; the others are still judged.
    Without `fallback` a provider that leaves a node to the CPU has failed. `interpreters`: provider → the Python that
    its workers run under. `trained`: what the quantized model was trained as, which it is compared with too.

    Raises ModelError for a file that is no model, DataError for data that do not fit or cannot be judged,
    NumericsError when the float model's outputs are no numbers, ProviderError for an unknown provider, UsageError
    for an unknown task or gate, or an interpreter of a provider that is not asked for.
    """
    say = progress or (lambda _: None)
    check_names(gates)
    if "trained_sqnr_db" in gates and trained is None:
        fix = "use it in a recipe with quantize.qat: `qpipe run`"
        raise UsageError("the gate trained_sqnr_db needs a model that was trained here", fix=fix)
    chosen = dict(interpreters or {})
    execution.check_interpreters(providers, chosen)
    size = _sizes(reference, model)
    found, names = tasks.find(task), id2label(reference) or id2label(model)
    labels = _labels(found, batches, names, gates)
    if shape := static_shape(model):
        list(of_shape(batches, *shape))  # data that do not fit are no provider's failure
        shapes = [shape] if shapes else ()
    data = _Evaluation(found, batches, labels, names, shapes, threads, rounds, fallback, limits, chosen, trained)
    say(f"{REFERENCE_PROVIDER}: float model: predictions")
    facts: dict[str, str | int] = machine.facts() | machine.settings(threads)
    results: list[Result] = []
    baseline = _baseline(reference, data)
    if isinstance(baseline, Result) and REFERENCE_PROVIDER not in providers:
        results.append(baseline)
    for provider in providers:
        try:
            facts |= _installed(provider, data)
        except ProviderError as failure:
            results += [Result(provider, name, error=_reason(failure)) for name in MODELS]
            continue
        results += _on_provider(provider, (reference, model), data, baseline, say)
    return Verdict(judge(gates, size, results), size, tuple(results), tuple(skipped), facts)


def _installed(provider: str, data: _Evaluation) -> dict[str, str | int]:
    """Facts about a provider for the verdict; ProviderError where it cannot run at all."""
    if provider == execution.ALWAYS_HERE and provider not in data.interpreters:
        return {}
    with data.worker(Path(), provider) as worker:
        seen = worker.check()
    found: dict[str, str | int] = {provider: seen.version}
    if seen.device:
        found[f"{provider}_device"] = seen.device
    if provider in data.interpreters:
        found |= {f"{provider}_onnxruntime": seen.onnxruntime, f"{provider}_python": seen.python}
    return found


def _baseline(reference: Path, data: _Evaluation) -> _Predictions | Result:
    """The float model's predictions, or what there is to say where its provider failed."""
    try:
        return _predict(reference, REFERENCE_PROVIDER, data)
    except ProviderError as failure:
        return Result(REFERENCE_PROVIDER, MODELS[0], error=_reason(failure))


def _on_provider(
    provider: str, paths: Paths, data: _Evaluation, baseline: _Predictions | Result, say: Say
) -> list[Result]:
    """Results of the float and of the quantized model; a provider that takes integers alone gets no float one."""
    known = execution.find(provider)
    pair = []
    for path, name in zip(paths, MODELS, strict=True):
        if name == MODELS[0] and known.static:
            continue
        say(f"{provider}: {name} model: predictions and kernels")
        pair.append(_judged(Result(provider, name), path, data, baseline))
    for batch, sequence in () if known.simulated else data.shapes:
        say(f"{provider}: timing at {batch}×{sequence}")
        pair = _timed(pair, paths, data, (batch, sequence))
    return pair


def _sizes(reference: Path, model: Path) -> Size:
    parts = breakdown(model)
    held = coarse(parts)
    return Size(size_parts(reference).total, held.total, held, low_bit_bytes(model), nominal_bytes(parts))


def _labels(task: Task, batches: Sequence[Batch], names: Mapping[str, str], gates: Mapping[str, float]) -> Labels:
    """The data's labels in the model's words; DataError where the gates cannot be judged on them."""
    labels = task.labels(batches, names)
    if not labels:
        raise DataError("there are no evaluation examples", fix="name data that hold some")
    if "accuracy_drop" in gates and all(label is None for label in labels):
        raise DataError(
            "the gate accuracy_drop needs labels, the evaluation data have none",
            fix="add a label column, or use the gates agreement and sqnr_db instead",
        )
    return labels


def _predict(path: Path, provider: str, data: _Evaluation) -> _Predictions:
    """Rows and classes for all batches; NumericsError when a row is no number."""
    rows = compared_rows(data.worker(path, provider), data.batches, data.task)
    return _Predictions(rows, data.task.answered(rows, data.batches, data.labels, data.id2label))


def _judged(result: Result, path: Path, data: _Evaluation, baseline: _Predictions | Result) -> Result:
    """`result` with predictions and kernels judged, or with the error that prevented it."""
    is_baseline = (result.model, result.provider) == (MODELS[0], REFERENCE_PROVIDER)
    try:
        seen = baseline if is_baseline else _predict(path, result.provider, data)
        if isinstance(seen, Result):
            return seen
        kernels, partition = _kernels(path, result.provider, data)
    except _failures_of(result.provider) as failure:
        return replace(result, error=_reason(failure))
    measure = data.task.measure
    score = measure.score(seen.answers, data.labels)
    judged = replace(result, kernels=kernels, partition=partition, accuracy=score)
    if is_baseline or isinstance(baseline, Result):
        return judged
    fidelity = Fidelity(_sqnr_db(baseline.rows, seen.rows), measure.agreement(baseline.answers, seen.answers))
    lost, by_class = measure.drop(baseline.answers, seen.answers, data.labels) or (None, ())
    return _beside_trained(replace(judged, accuracy_drop=lost, fidelity=fidelity, class_drops=by_class), path, data)


def _beside_trained(result: Result, path: Path, data: _Evaluation) -> Result:
    """`result` with the SQNR beside the torch model that was trained, where one was, or with the error of that run."""
    if data.trained is None or result.fidelity is None or result.model != MODELS[1]:
        return result
    try:
        rows = compared_rows(data.worker(path, result.provider), data.trained.batches, data.task)
    except _failures_of(result.provider) as failure:
        return replace(result, error=_reason(failure))
    return replace(result, fidelity=replace(result.fidelity, trained_sqnr_db=_sqnr_db(data.trained.rows, rows)))


def _sqnr_db(expected: FloatArray, found: FloatArray) -> float:
    return float(np.clip(sqnr_db(expected, found), -NO_NOISE_DB, NO_NOISE_DB))


def _kernels(path: Path, provider: str, data: _Evaluation) -> tuple[Kernels | None, Partition | None]:
    """What ran; no kernels where a provider compiles and tells nothing about those that could be integer ones."""
    with data.worker(path, provider) as worker:
        shape = static_shape(path) or (data.shapes[0] if data.shapes else KERNEL_SHAPE)
        seen = worker.census(from_batches(data.batches, *shape))
        optimized = linears(seen.optimized) if seen.optimized else None
        kernels = executed(linears(path), optimized, seen.events)
    open_ones = [node for node in kernels.nodes if node.reason not in (FLOAT_WEIGHT, FLOAT_ACTIVATION)]
    silent = optimized is None and open_ones and all(node.kernel == UNKNOWN for node in open_ones)
    return None if silent else kernels, seen.partition


def _timed(pair: Sequence[Result], paths: Paths, data: _Evaluation, shape: Shape) -> list[Result]:
    """The float and the quantized result with one more latency each; what already failed is left out of the race."""
    results = list(pair)
    alive = [i for i, result in enumerate(results) if not result.error]
    if not alive:
        return results
    provider, files = pair[0].provider, paths[-len(pair) :]
    racers = [Racer(files[i], provider, data.interpreters.get(provider)) for i in alive]
    inputs = from_batches(data.batches, *shape)
    try:
        timings = race(
            racers,
            inputs,
            threads=data.threads,
            rounds=data.rounds,
            fallback=data.fallback,
            limits=data.limits,
        )
    except _failures_of(provider) as failure:
        culprits = [i for i in alive if Path(failure.where).absolute() == files[i].absolute()] or alive
        for i in culprits:
            results[i] = replace(results[i], error=_reason(failure))
        return results
    for i, latency in zip(alive, latencies(shape, timings, relative=results[alive[0]].model == MODELS[0]), strict=True):
        results[i] = replace(results[i], latency=(*results[i].latency, latency))
    return results


def _failures_of(provider: str) -> tuple[type[QpipeError], ...]:
    """What makes a result an error: the CPU takes every valid model and input, so elsewhere a refusal is one too."""
    own = (ProviderError, NumericsError)
    return own if provider == REFERENCE_PROVIDER else (*own, ModelError, DataError)


def _reason(failure: QpipeError) -> str:
    """Text of a result's error; it begins with PROVIDER_FAILED exactly when the provider is to blame."""
    if isinstance(failure, NumericsError):
        return failure.what
    return f"{PROVIDER_FAILED}: {failure.what.removeprefix(f'{PROVIDER_FAILED}: ')}"
