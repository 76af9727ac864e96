"""Trace: float and quantized model beside each other inside, tensor by tensor along the residual stream."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qonnx_pipe.core.changes import Change
from qonnx_pipe.core.encoding import FloatArray
from qonnx_pipe.core.examples import Array, Batch
from qonnx_pipe.core.layers import Layers, SiteFidelity
from qonnx_pipe.core.site import Role, Site, SiteMap, Skipped
from qonnx_pipe.errors import QpipeError
from qonnx_pipe.graph.expose import expose, named
from qonnx_pipe.runtime.client import LIMITS, Limits, Worker

STREAM = frozenset(
    {
        Role.EMBEDDING_SUM,
        Role.EMBEDDING_NORM,
        Role.ATTENTION_SUM,
        Role.FFN_INPUT,
        Role.RESIDUAL_SUM,
        Role.LAYER_OUTPUT,
        Role.POOLER,
        Role.HEAD,
    }
)
"""What is compared: every layer passes through it, and a fold changes only what `Change` undoes."""

BATCHES, ROWS = 4, 4
"""Batches, spread over the data, and examples of each: some thousand tokens tell SQNR to a tenth of a dB."""

NO_NOISE_DB = 200.0
"""Reported SQNR of equal tensors, as in the verdict."""


@dataclass
class _Energy:
    """Sums of squares of one site: of the float tensor, and of the difference."""

    signal: float = 0.0
    noise: float = 0.0

    @property
    def sqnr_db(self) -> float:
        """10·log10 of their ratio, bounded; the least where the quantized tensor is no number."""
        if not np.isfinite(self.noise):
            return -NO_NOISE_DB
        tiny = np.finfo(np.float64).tiny
        ratio = 10 * (np.log10(max(self.signal, tiny)) - np.log10(max(self.noise, tiny)))
        return float(np.clip(ratio, -NO_NOISE_DB, NO_NOISE_DB))


def trace_stage(
    model: Path,
    reference: Path,
    sites: SiteMap,
    changed: Mapping[str, Change],
    batches: Sequence[Batch],
    *,
    workdir: Path,
    limits: Limits = LIMITS,
    python: Path | None = None,
) -> Layers:
    """SQNR of the quantized `model` beside the float `reference` on the CPU, at each site of the residual stream.

    Copies of both models that hand out these tensors are written into `workdir`. A tensor that the quantized graph
    lacks is skipped with the reason; so are all, where one of the copies cannot run within `limits`. `python`: the
    interpreter of the CPU's workers.
    """
    wanted = [site for site in sites.activations if site.role in STREAM]
    there = named(model)
    kept = [site for site in wanted if site.tensor in there]
    gone = [Skipped(site.id, "the quantized graph has no tensor of this name") for site in wanted if site not in kept]
    paths = workdir / "float-exposed.onnx", workdir / "quantized-exposed.onnx"
    chosen = _spread(batches)
    try:
        for path, source in zip(paths, (reference, model), strict=True):
            expose(source, kept, path)
        exact, noisy = (Worker(path, limits=limits, python=python) for path in paths)
        compared, unlike = _compared((exact, noisy), kept, changed, chosen)
    except QpipeError as failure:
        return Layers((), 0, (*gone, *(Skipped(site.id, failure.what) for site in kept)))
    return Layers(compared, sum(map(len, chosen)), (*gone, *unlike))


def _spread(batches: Sequence[Batch]) -> list[Batch]:
    """Some examples of some batches: data sorted by length have short ones in front."""
    count = min(BATCHES, len(batches))
    return [_head(batches[index * len(batches) // count]) for index in range(count)]


def _head(batch: Batch) -> Batch:
    inputs = {name: values[:ROWS] for name, values in batch.inputs.items()}
    return Batch(inputs, batch.labels[:ROWS], batch.readings[:ROWS])


def _compared(
    workers: tuple[Worker, Worker], sites: Sequence[Site], changed: Mapping[str, Change], batches: Sequence[Batch]
) -> tuple[tuple[SiteFidelity, ...], tuple[Skipped, ...]]:
    energies = {site.id: _Energy() for site in sites}
    unlike: dict[str, Skipped] = {}
    for batch, exact, noisy in _runs(workers, batches):
        for site in sites:
            signal, found = (outputs[site.tensor].astype(np.float32) for outputs in (exact, noisy))
            like = changed.get(site.id, Change()).undone(found, signal.shape[-1])
            if like is None or like.shape != signal.shape:
                unlike[site.id] = Skipped(site.id, f"its shape is {found.shape}, in the float model {signal.shape}")
                continue
            signal, like = (_of_tokens(values, batch.inputs.get("attention_mask")) for values in (signal, like))
            energies[site.id].signal += float(np.sum(np.square(signal, dtype=np.float64)))
            energies[site.id].noise += float(np.sum(np.square(signal - like, dtype=np.float64)))
    seen = [site for site in sites if site.id not in unlike]
    traced = (SiteFidelity(site.id, site.role, site.layer, energies[site.id].sqnr_db) for site in seen)
    return tuple(traced), tuple(unlike.values())


def _runs(
    workers: tuple[Worker, Worker], batches: Sequence[Batch]
) -> Iterator[tuple[Batch, Mapping[str, Array], Mapping[str, Array]]]:
    """Each batch with the outputs of both models."""
    with workers[0] as exact, workers[1] as noisy:
        inputs = [batch.inputs for batch in batches]
        yield from zip(batches, exact.predict(inputs), noisy.predict(inputs), strict=True)


def _of_tokens(values: FloatArray, mask: Array | None) -> FloatArray:
    """Values of tokens that are no padding; a tensor without tokens stays whole."""
    return values[mask.astype(bool)] if mask is not None and values.shape[:2] == mask.shape else values
