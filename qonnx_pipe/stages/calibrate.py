"""Calibrate: a float model over batches of data → statistics of every activation site, streaming and resumable."""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from qonnx_pipe.core.examples import Array, Batch
from qonnx_pipe.core.files import write_atomic
from qonnx_pipe.core.sampling import sampled_examples, sampled_tokens
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
from qonnx_pipe.graph.instrument import EXAMPLES_INPUT, MASK_INPUT, TOKENS_INPUT, Instrumented, Outlets, instrument
from qonnx_pipe.runtime.observe import observe

PROVENANCE = "provenance"
SAVE_SECONDS = 5.0
"""Work that a kill may cost."""

DAMAGE = (BadZipFile, ValueError, KeyError, TypeError, EOFError)
"""What reading a file that is no calibration table raises."""

Mask = Array | None
Arrays = Mapping[str, Array]


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

    Histograms and sampled tokens are kept where `requests` ask for them. Memory does not grow with the number of
    batches. `workdir` keeps the state every few seconds and on Ctrl-C; the same call resumes there. `progress` hears
    the batches done. Raises DataError without batches, NumericsError for NaN or infinity in an activation, and what
    sessions raise.
    """
    if not batches:
        raise DataError("no calibration samples", fix="give at least one example: data.calibration.samples")
    state = workdir / f"state-{_identity(sites, requests, batches, provenance)}.npz"
    table = _resume(state) or CalibrationTable({}, replace(provenance, samples=0, batches=0, tokens=0))
    rest = batches[table.provenance.batches :]
    progress(table.provenance.batches)
    instrumented = instrument(model, sites, requests, workdir / "instrumented.onnx")
    gc.collect()  # a graph refers to itself in rings, and would keep its weights
    chosen = _choosing(rest, instrumented, table.provenance.samples, sum(map(len, batches)), requests.samples)
    seen, saved = observe(instrumented.path, chosen), time.monotonic()
    try:
        for batch in rest:
            table = _with(table, batch, next(seen), instrumented, requests)  # no name: free before the next run
            progress(1)
            if time.monotonic() - saved > SAVE_SECONDS:
                write_table(state, table)
                saved = time.monotonic()
    except KeyboardInterrupt:
        write_table(state, table)
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
        return _unpack(path)
    except DAMAGE as error:
        raise DataError(
            "not a calibration table, or a damaged one", where=str(path), fix="make it again with `qpipe calibrate`"
        ) from error


def _choosing(
    batches: Iterable[Batch], instrumented: Instrumented, first: int, examples: int, wanted: int
) -> Iterator[Batch]:
    """The batches, whose first example has number `first`, with the inputs that say which samples to hand out."""
    for batch in batches:
        mask = batch.inputs.get(MASK_INPUT)
        own = np.ones((len(batch), instrumented.tokens or 0), bool) if mask is None else mask.astype(bool)
        places = {
            TOKENS_INPUT: sampled_tokens(own, first, examples, wanted),
            EXAMPLES_INPUT: sampled_examples(len(batch), first, examples, wanted),
        }
        yield replace(batch, inputs={**batch.inputs, **places})
        first += len(batch)


def _with(
    table: CalibrationTable, batch: Batch, values: Arrays, instrumented: Instrumented, requests: Requests
) -> CalibrationTable:
    """The table after one more batch, of which `values` were seen."""
    mask, wishes = batch.inputs.get(MASK_INPUT), {request.site: request for request in requests.items}
    _check_numbers(values, instrumented, mask, number=table.provenance.batches)
    sites = {
        site: _merged(table.sites.get(site), _seen(values, outlets, wishes.get(site), mask))
        for site, outlets in instrumented.outlets.items()
    }
    return CalibrationTable(sites, _count(table.provenance, batch, mask))


def _check_numbers(values: Arrays, instrumented: Instrumented, mask: Mask, *, number: int) -> None:
    """Raise NumericsError for the first site, or else output, that holds NaN or infinity at a token."""
    for site, outlets in instrumented.outlets.items():
        ends = [values[outlets.minimum], values[outlets.maximum]]
        if not np.all(np.isfinite(ends)):
            raise _no_numbers(f"NaN or infinity in calibration batch {number}", site)
        if outlets.sums is not None and np.any(np.isnan(_of_tokens(values[outlets.sums], mask))):
            raise _no_numbers(f"NaN in calibration batch {number}, here or earlier in the layer", site)
    for name in instrumented.outputs:
        if not np.all(np.isfinite(_of_tokens(values[name], mask))):
            raise _no_numbers(f"NaN or infinity in calibration batch {number}", f"output {name}")


def _no_numbers(what: str, where: str) -> NumericsError:
    return NumericsError(what, where=where, fix="check the model's weights, and the examples of this batch")


def _seen(values: Arrays, outlets: Outlets, wish: Request | None, mask: Mask) -> SiteStatistics:
    """What one batch showed at one site."""
    ends = (np.atleast_1d(values[name]).astype(np.float32) for name in (outlets.minimum, outlets.maximum))
    minmax, histogram = MinMax(*ends), None
    if outlets.values is not None and wish is not None:
        tokens = _of_tokens(values[outlets.values], mask, pairwise=outlets.pairwise)
        histogram = Histogram.of(tokens.astype(np.float32), per_embedding=wish.histogram == "embedding")
    samples = None if outlets.samples is None else values[outlets.samples].astype(np.float32)
    return SiteStatistics(minmax, RunningMinMax.first(minmax), histogram, samples)


def _merged(before: SiteStatistics | None, batch: SiteStatistics) -> SiteStatistics:
    if before is None:
        return batch
    running = before.running and before.running.update(batch.minmax)
    histogram = before.histogram and batch.histogram and before.histogram.merge(batch.histogram)
    samples = None
    if before.samples is not None and batch.samples is not None:
        samples = np.concatenate([before.samples, batch.samples])
    return SiteStatistics(before.minmax.merge(batch.minmax), running, histogram, samples)


def _of_tokens(array: Array, mask: Mask, *, pairwise: bool = False) -> Array:
    """What belongs to tokens: [tokens, d], or, of query-key pairs, what belongs to two tokens: [pairs, heads].

    Tensors without tokens stay whole.
    """
    if mask is None or not (pairwise or array.ndim == 3):
        return array
    keep = mask.astype(bool)
    if pairwise:
        array = np.moveaxis(array.reshape(len(keep), -1, *array.shape[-2:]), 1, -1)
        keep = keep[:, :, None] & keep[:, None, :]
    tokens: Array = array[keep]
    return tokens


def _count(provenance: Provenance, batch: Batch, mask: Mask) -> Provenance:
    tokens = int(mask.astype(np.int64).sum()) if mask is not None else len(batch)
    return replace(
        provenance,
        samples=provenance.samples + len(batch),
        batches=provenance.batches + 1,
        tokens=provenance.tokens + tokens,
    )


def _identity(sites: SiteMap, requests: Requests, batches: Sequence[Batch], provenance: Provenance) -> str:
    """Digest of everything that a saved state depends on."""
    digest = sha256(repr((provenance, requests, sites.activations)).encode())
    for batch in batches:
        for name, array in sorted(batch.inputs.items()):
            digest.update(f"{name} {array.dtype} {array.shape}".encode() + np.ascontiguousarray(array).data)
    return digest.hexdigest()[:16]


def _resume(state: Path) -> CalibrationTable | None:
    """The saved state, if there is a whole one: a damaged one is only a lost head start."""
    try:
        return _unpack(state) if state.is_file() else None
    except DAMAGE:
        return None


def _pack(table: CalibrationTable) -> bytes:
    stream = BytesIO()
    facts = json.dumps(asdict(table.provenance), sort_keys=True)
    arrays: dict[str, Array] = {PROVENANCE: np.asarray(facts), **table.to_arrays()}
    np.savez(stream, **arrays)  # type: ignore[arg-type]
    return stream.getvalue()


def _unpack(path: Path) -> CalibrationTable:
    with path.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    facts = json.loads(str(arrays.pop(PROVENANCE)))
    return CalibrationTable.from_arrays(arrays, Provenance(**facts))
