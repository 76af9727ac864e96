"""Calibration: its time beside plain inference over the same batches, and its memory at 8 and at 256 batches."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Literal, get_args

import numpy as np

from qonnx_pipe.core.examples import Batch
from qonnx_pipe.core.statistics import Provenance, Request, Requests
from qonnx_pipe.runtime.session import open_session, run_session
from qonnx_pipe.stages.calibrate import calibrate_stage
from tests.bench.made import Made, quickstart
from tests.bench.outcome import Outcome, at_most
from tests.bench.process import alone

Kept = Literal["extremes", "tensor", "embedding"]
"""What is kept of a site: extremes of each dimension; with a histogram of the tensor, or of each dimension."""

FEW, MANY = 8, 256
"""Numbers of batches whose peak memory is compared."""


def duration(rounds: int) -> Outcome:
    """Min-max and per-embedding ranges of every site, against the float model alone; both from file to result."""
    made = quickstart()
    choice = made.calibration
    batches = made.batches(
        choice, samples=choice.samples or 256, batch_size=choice.batch_size, max_length=choice.max_length
    )
    contestants: list[Callable[[], None]] = [lambda: _infer(made, batches), lambda: _calibrate(made, batches)]
    seconds: list[list[float]] = [[], []]
    for number in range(rounds):
        for i in (0, 1) if number % 2 == 0 else (1, 0):
            seconds[i].append(_timed(contestants[i]))
    ratio = median(after / before for before, after in zip(*seconds, strict=True))
    rows = [
        (name, f"{median(taken):.2f}", f"{min(taken):.2f}–{max(taken):.2f}")
        for name, taken in zip(("float inference", "calibration"), seconds, strict=True)
    ]
    bound = at_most("calibration time over inference", ratio, 1.5, "×")
    return Outcome(f"Calibration time, MiniLM-L6, {len(batches)} batches", ("what", "s", "range"), rows, [bound])


def memory(_rounds: int) -> Outcome:
    """Peak memory of a process that does nothing but calibrate, on batches that another one has tokenized."""
    made, rows, bounds = quickstart(), [], []
    with tempfile.TemporaryDirectory(prefix="qpipe-bench-") as folder:
        few, many = (_stored(made, count, Path(folder)) for count in (FEW, MANY))
        for kept in get_args(Kept):
            before, after = (alone(calibrate_alone, made, kept, file).peak_rss for file in (few, many))
            rows.append((kept, f"{before / 1e6:.0f}", f"{after / 1e6:.0f}", f"{after / before:.3f}"))
            bounds.append(at_most(f"memory at {MANY} over {FEW} batches: {kept}", after / before, 1.1, "×"))
    columns = ("kept of each site", f"MB at {FEW}", f"MB at {MANY}", "ratio")
    return Outcome("Calibration memory, MiniLM-L6", columns, rows, bounds)


def calibrate_alone(made: Made, kept: Kept, file: Path) -> float:
    """Calibrate over stored batches; seconds."""
    with np.load(file) as stored:
        arrays = {name: stored[name] for name in stored.files}
    count = len({name.split("/")[0] for name in arrays})
    inputs = [{name.split("/")[1]: arrays[name] for name in arrays if name.startswith(f"{i}/")} for i in range(count)]
    batches = [Batch(one, (None,) * len(one["input_ids"])) for one in inputs]
    return _timed(lambda: _calibrate(made, batches, kept))


def _stored(made: Made, count: int, folder: Path) -> Path:
    """`count` batches of 4 texts, of 64, 16 and 32 tokens in turn, as one .npz of "number/input" arrays."""
    lengths = (64, 16, 32)
    choice = made.calibration
    by_length = [made.batches(choice, samples=4 * count, batch_size=4, max_length=length) for length in lengths]
    batches = [by_length[i % len(lengths)][i] for i in range(count)]
    file = folder / f"{count}.npz"
    arrays = {f"{i}/{name}": values for i, batch in enumerate(batches) for name, values in batch.inputs.items()}
    np.savez(file, **arrays)  # type: ignore[arg-type]  # no input is called allow_pickle
    return file


def _calibrate(made: Made, batches: Sequence[Batch], kept: Kept = "extremes") -> None:
    sites = made.plan.sites
    wanted = () if kept == "extremes" else tuple(Request(site.id, histogram=kept) for site in sites.activations)
    workdir = Path(tempfile.mkdtemp(prefix="qpipe-bench-"))
    nowhere = Provenance("", "", 0, 0, 0, 0, 0)
    try:
        table = calibrate_stage(made.float_model, sites, Requests(wanted), batches, nowhere, workdir=workdir)
    finally:
        shutil.rmtree(workdir)
    assert table.provenance.batches == len(batches)


def _infer(made: Made, batches: Sequence[Batch]) -> None:
    session = open_session(made.float_model)
    for batch in batches:
        run_session(session, batch.inputs, model=made.float_model)


def _timed(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
