"""Peers: the file of every other int8 tool beside qpipe's, at BERT-base's size, in one interleaved race."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from qonnx_pipe.core.examples import Batch
from qonnx_pipe.errors import QpipeError
from qonnx_pipe.recipe import load
from qonnx_pipe.runtime.client import LIMITS, Limits, Worker, problem_of
from qonnx_pipe.runtime.clock import speedup
from qonnx_pipe.runtime.providers import find as find_provider
from qonnx_pipe.runtime.race import Racer, Timing, latencies, race
from qonnx_pipe.runtime.shapes import from_batches
from tests.bench import base_model, racers
from tests.bench.made import Made, base, make
from tests.bench.outcome import Bound, Outcome, at_least, at_most
from tests.bench.peers_made import NATIVE, OPENVINO, PEERS, SERVER, Missing, Peer, make_files

SHAPES = ((1, 32), (1, 128), (8, 128))
COLUMNS = ("model", *racers.COLUMNS, *(cell for b, s in SHAPES for cell in (f"{b}×{s} ms", "over float")))
FLOAT, OURS, COMPILED = "float", "qpipe", "qpipe, openvino"

LEAST_SPEEDUP = 2.8
"""Over float at 8×128, on a processor with VNNI."""

LEAST_COMPILED = 3.2
"""The same under OpenVINO."""

CLOSE = 1.1
"""Time of qpipe's file under the openvino provider over that of NNCF's in OpenVINO's own runtime, at most."""

Timings = dict[str, Timing]


class Native(Racer):
    """A model in OpenVINO's own runtime: its worker is no qpipe, and needs no onnxruntime."""

    def worker(
        self,
        *,
        threads: int | None = None,
        fallback: bool = True,
        limits: Limits = LIMITS,
        cores: Sequence[int] = (),
    ) -> Worker:
        """A process of SERVER, bound to the cores of the others."""
        command = (*OPENVINO.command, str(SERVER), *map(str, cores))
        return Worker(self.model, self.provider, threads=threads, fallback=fallback, limits=limits, command=command)


def peers(rounds: int) -> Outcome:
    """ONNX files of other tools on the CPU provider."""
    made = base()
    runners = {FLOAT: Racer(made.float_model), OURS: Racer(made.quantized)}
    notes: dict[str, str] = {}
    for peer, file in _files(PEERS, made).items():
        if isinstance(file, Missing):
            notes[peer.name] = f"skipped: {file.reason}"
        elif broken := _problem(Racer(file), _texts(made)):
            notes[peer.name] = f"does not run: {broken}"
        else:
            runners[peer.name] = Racer(file)
    found = _race(runners, made, rounds)
    bounds = [_over(FLOAT, OURS, found, SHAPES[-1], LEAST_SPEEDUP)]
    rivals = [name for name in runners if name not in (FLOAT, OURS)]
    bounds += [
        _faster(name, shape, *speedup(found[shape][name].rounds, found[shape][OURS].rounds))
        for shape in SHAPES
        for name in rivals
    ]
    title = f"Peers, BERT-base size ({racers.THREADS} threads, {rounds} rounds)"
    return Outcome(title, COLUMNS, _rows(runners, found, made, notes), bounds)


def openvino(rounds: int) -> Outcome:
    """NNCF's int8 model in OpenVINO's own runtime, beside qpipe's under the openvino provider."""
    title = f"OpenVINO's own int8, BERT-base size ({racers.THREADS} threads, {rounds} rounds)"
    missing = "not installed" if find_provider("openvino").version() is None else problem_of("openvino")
    made = base()
    theirs = _files((NATIVE,), made)[NATIVE]
    if missing or isinstance(theirs, Missing):
        reason = f"not here: {missing or theirs}"
        return Outcome(title, ("what", "why"), [("OpenVINO", reason)], [])
    ours = make(load(base_model.RECIPE, (*base_model.overrides(), "quantize.target=openvino", "name=base-openvino")))
    runners = {
        FLOAT: Racer(made.float_model),
        COMPILED: Racer(ours.quantized, "openvino"),
        NATIVE.name: Native(theirs, "OpenVINO"),
    }
    found = _race(runners, made, rounds)
    bounds = [_over(FLOAT, COMPILED, found, SHAPES[-1], LEAST_COMPILED)]
    for shape in SHAPES:
        ratio, _ = speedup(found[shape][COMPILED].rounds, found[shape][NATIVE.name].rounds)
        bounds.append(at_most(f"{COMPILED}: time over {NATIVE.name}, {_name(shape)}", ratio, CLOSE, "×"))
    return Outcome(title, COLUMNS, _rows(runners, found, made, {}), bounds)


def _files(peers: Sequence[Peer], made: Made) -> dict[Peer, Path | Missing]:
    """Made from the batches that qpipe calibrates on."""
    choice = made.calibration
    sizes = {"batch_size": choice.batch_size, "max_length": choice.max_length}
    return make_files(peers, made.float_model, made.batches(choice, samples=choice.samples or 128, **sizes))


def _texts(made: Made) -> list[Batch]:
    return made.batches(made.evaluation, samples=64, batch_size=16, max_length=128)


def _problem(racer: Racer, texts: Sequence[Batch]) -> str:
    """Why a file cannot run; "" where it can."""
    try:
        with racer.worker() as worker:
            list(worker.predict([texts[0].inputs]))
    except QpipeError as failure:
        return failure.what[:120]
    return ""


def _race(runners: Mapping[str, Racer], made: Made, rounds: int) -> dict[tuple[int, int], Timings]:
    found = {}
    for shape in SHAPES:
        inputs = from_batches(_texts(made), *shape)
        timings = race(list(runners.values()), inputs, threads=racers.THREADS, rounds=rounds)
        found[shape] = dict(zip(runners, timings, strict=True))
    return found


def _rows(
    runners: Mapping[str, Racer], found: Mapping[tuple[int, int], Timings], made: Made, notes: Mapping[str, str]
) -> list[tuple[str, ...]]:
    """A row for each racer, and one for each peer that could not race."""
    facts = racers.facts(list(runners.values()), made.recipe.model.task, _texts(made))
    cells: dict[str, tuple[str, ...]] = {name: (name, *fact) for name, fact in zip(runners, facts, strict=True)}
    for shape, timings in found.items():
        for name, seen in zip(timings, latencies(shape, list(timings.values())), strict=True):
            low, high = seen.speedup_interval or (0.0, 0.0)
            cells[name] += (f"{seen.p50_ms:.1f}", f"{seen.speedup:.2f} ({low:.2f}–{high:.2f})")
    blank = ("–",) * (len(COLUMNS) - 2)
    return [*cells.values(), *((name, *blank, note) for name, note in notes.items())]


def _over(
    slow: str, fast: str, found: Mapping[tuple[int, int], Timings], shape: tuple[int, int], least: float
) -> Bound:
    ratio, _ = speedup(found[shape][slow].rounds, found[shape][fast].rounds)
    return at_least(f"{fast}: over {slow}, {_name(shape)}", ratio, least, "×")


def _faster(name: str, shape: tuple[int, int], ratio: float, interval: tuple[float, float]) -> Bound:
    low, high = interval
    return at_least(f"over {name}, {_name(shape)} ({low:.2f}–{high:.2f})", ratio, 1.0, "×")


def _name(shape: tuple[int, int]) -> str:
    return f"{shape[0]}×{shape[1]}"
