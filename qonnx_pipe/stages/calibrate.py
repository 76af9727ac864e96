"""Calibrate: a float model over batches of data → statistics of every activation site, streaming and resumable."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from io import BytesIO
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from qonnx_pipe.core.encoding import FloatArray
from qonnx_pipe.core.examples import Batch
from qonnx_pipe.core.files import write_atomic
from qonnx_pipe.core.site import SiteMap
from qonnx_pipe.core.statistics import (
    CalibrationTable,
    Histogram,
    MinMax,
    Provenance,
    Request,
    Requests,
    RunningMinMax,
    SiteStatistics,
)
from qonnx_pipe.errors import DataError, NumericsError
from qonnx_pipe.graph.instrument import MASK_INPUT, Outlets, instrument
from qonnx_pipe.runtime.observe import observe

PROVENANCE = "provenance"
SAVE_SECONDS = 5.0
"""Work that a kill may cost."""

Arrays = Mapping[str, npt.NDArray[np.generic]]


def _silent(_batches: int) -> None:
    """Hear nothing."""


def calibrate_stage(
    model: Path,
    sites: SiteMap,
    requests: Requests,
    batches: Sequence[Batch],
    provenance: Provenance,
    *,
    workdir: Path,
    progress: Callable[[int], None] = _silent,
) -> CalibrationTable:
    """Statistics of all activation sites of `model` over `batches`: min-max and running min-max of every site.

    Histograms are kept where `requests` ask for them. Memory does not grow with the number of batches. `workdir`
    keeps the state every few seconds and on Ctrl-C; the same call resumes there. `progress` hears the batches done.
    Raises DataError without batches, NumericsError for NaN or infinity in an activation, and what sessions raise.
    """
    if not batches:
        raise DataError("no calibration samples", fix="give at least one example: data.calibration.samples")
    state_file = workdir / "state.npz"
    table, done = _resume(state_file, provenance)
    progress(done)
    wishes = {request.site: request for request in requests.items}
    instrumented = instrument(model, sites, requests, workdir / "instrumented.onnx")
    saved = time.monotonic()
    try:
        for values in observe(instrumented.path, batches, instrumented.outputs, first=done):
            mask = batches[done].inputs.get(MASK_INPUT)
            seen = {
                site: _merged(table.sites.get(site), _seen(site, values, outlets, wishes.get(site), mask))
                for site, outlets in instrumented.outlets.items()
            }
            done += 1
            table = CalibrationTable(seen, _count(table.provenance, batches[done - 1], mask))
            progress(1)
            if time.monotonic() - saved > SAVE_SECONDS:
                _save(state_file, table, done)
                saved = time.monotonic()
    except KeyboardInterrupt:
        _save(state_file, table, done)
        raise
    return table


def write_table(path: Path, table: CalibrationTable) -> None:
    """Write a calibration table as .npz, its provenance as JSON text under "provenance"; atomic."""
    write_atomic(path, _pack(table))


def read_table(path: Path) -> CalibrationTable:
    """Read a calibration table; DataError when the file is missing or no such table."""
    if not path.is_file():
        raise DataError("no such calibration table", where=str(path), fix="make one with `qpipe calibrate`")
    try:
        return _unpack(path)[0]
    except (BadZipFile, ValueError, KeyError, TypeError, EOFError) as error:
        raise DataError(
            f"not a calibration table ({error})", where=str(path), fix="make it again with `qpipe calibrate`"
        ) from error


def _seen(
    site: str, values: Arrays, outlets: Outlets, wish: Request | None, mask: npt.NDArray[np.generic] | None
) -> SiteStatistics:
    """What one batch showed at one site."""
    minmax = MinMax(
        np.atleast_1d(values[outlets.minimum]).astype(np.float32),
        np.atleast_1d(values[outlets.maximum]).astype(np.float32),
    )
    if not (np.all(np.isfinite(minmax.minimum)) and np.all(np.isfinite(minmax.maximum))):
        raise NumericsError(
            "NaN or infinity in an activation during calibration", where=site, fix="check the model and the data"
        )
    histogram = None
    if outlets.values is not None and wish is not None:
        tokens = _tokens(values[outlets.values].astype(np.float32), mask)
        histogram = Histogram.of(tokens, per_embedding=wish.histogram == "embedding")
    return SiteStatistics(minmax, RunningMinMax.first(minmax), histogram)


def _merged(before: SiteStatistics | None, batch: SiteStatistics) -> SiteStatistics:
    if before is None:
        return batch
    running = before.running and before.running.update(batch.minmax)
    histogram = before.histogram and batch.histogram and before.histogram.merge(batch.histogram)
    return SiteStatistics(before.minmax.merge(batch.minmax), running, histogram)


def _tokens(values: FloatArray, mask: npt.NDArray[np.generic] | None) -> FloatArray:
    """The values that belong to tokens: [tokens, d], or, for query-key pairs, the pairs of two tokens, flat."""
    if mask is None or values.ndim < 3:
        return values
    keep = mask.astype(bool)
    if values.shape[:2] == keep.shape:
        tokens: FloatArray = values[keep]
        return tokens
    if values.ndim == 3:
        values = values.reshape(len(keep), -1, *values.shape[1:])
    pairs = keep[:, :, None] & keep[:, None, :]
    flat: FloatArray = np.moveaxis(values, 1, -1)[pairs]
    return flat


def _count(provenance: Provenance, batch: Batch, mask: npt.NDArray[np.generic] | None) -> Provenance:
    tokens = int(mask.astype(np.int64).sum()) if mask is not None else len(batch)
    return replace(
        provenance,
        samples=provenance.samples + len(batch),
        batches=provenance.batches + 1,
        tokens=provenance.tokens + tokens,
    )


def _resume(path: Path, provenance: Provenance) -> tuple[CalibrationTable, int]:
    """The saved state of the same calibration, or an empty one."""
    empty = CalibrationTable({}, replace(provenance, samples=0, batches=0, tokens=0))
    if not path.is_file():
        return empty, 0
    try:
        table, done = _unpack(path)
    except (BadZipFile, ValueError, KeyError, TypeError, EOFError):
        return empty, 0  # a damaged state is only a lost head start
    same = (table.provenance.model_sha256, table.provenance.data_sha256) == (
        provenance.model_sha256,
        provenance.data_sha256,
    )
    return (table, done) if same else (empty, 0)


def _save(path: Path, table: CalibrationTable, done: int) -> None:
    write_atomic(path, _pack(table, done))


def _pack(table: CalibrationTable, done: int = 0) -> bytes:
    stream = BytesIO()
    facts = json.dumps({**asdict(table.provenance), "done": done}, sort_keys=True)
    arrays: dict[str, npt.NDArray[np.generic]] = {PROVENANCE: np.asarray(facts), **table.to_arrays()}
    np.savez(stream, **arrays)  # type: ignore[arg-type]
    return stream.getvalue()


def _unpack(path: Path) -> tuple[CalibrationTable, int]:
    with np.load(path, allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    facts = json.loads(str(arrays.pop(PROVENANCE)))
    done = int(facts.pop("done"))
    return CalibrationTable.from_arrays(arrays, Provenance(**facts)), done
