"""Round: a float model and a plan → codes of every weight that the plan rounds by data, layer after layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from qonnx_pipe.core.encoding import Encoding, FloatArray
from qonnx_pipe.core.examples import Array, Batch
from qonnx_pipe.core.files import make_folder, write_atomic, writing
from qonnx_pipe.core.numerics import dequantize
from qonnx_pipe.core.plan import PlanEntry, QuantPlan
from qonnx_pipe.core.rounding import Learned, from_arrays, to_arrays
from qonnx_pipe.core.sampling import sampled_examples, sampled_tokens
from qonnx_pipe.core.site import EMBEDDING_TABLES, Site, Skipped
from qonnx_pipe.core.spec import Rounding
from qonnx_pipe.errors import DataError, NumericsError
from qonnx_pipe.graph import io
from qonnx_pipe.graph.instrument import EXAMPLES_INPUT, MASK_INPUT, TOKENS_INPUT
from qonnx_pipe.graph.sampled import frontier, matrix, sample
from qonnx_pipe.observers.weights import encode_weight, quantize_weight
from qonnx_pipe.runtime.observe import observe

Rounder = Callable[[FloatArray, Encoding, FloatArray, FloatArray], Learned]
"""A weight [in, out], its encoding, inputs [n, in] in the model quantized so far, outputs [n, out] in the float one."""

TOKENS_AN_EXAMPLE = 64
"""How many of an example's tokens are taken, at most: the more, the fewer examples must run through the model."""

UNSAMPLED = "the inputs of this weight cannot be sampled: rounded to the nearest"

DAMAGE = (BadZipFile, ValueError, KeyError, TypeError, EOFError)
"""What reading a file that holds no learned codes raises."""


def _silent(_text: str) -> None:
    """Hear nothing."""


def round_stage(
    model: Path,
    plan: QuantPlan,
    batches: Sequence[Batch],
    *,
    tokens: int,
    rounders: Mapping[Rounding, Rounder],
    workdir: Path,
    progress: Callable[[str], None] = _silent,
) -> dict[str, Learned]:
    """Learned codes by site id, layer by layer in the order of the data.

    The weights of a step read the same activations. Each gets its codes by the rounder that its spec names, on some
    `tokens` tokens: its inputs are those of the model whose weights so far are quantized, its targets the float model's
    outputs. Activations stay float. `model` is the file whose weights will be quantized: folded, where the plan folds.
    `workdir` keeps what is learned, so that the same call goes on there; `progress` hears each weight. Weights whose
    inputs cannot be sampled are left out. Raises DataError without batches, NumericsError where a layer's inputs are
    not finite, and what rounders and sessions raise.
    """
    if not batches:
        raise DataError("no samples to learn the rounding on", fix="give at least one: data.calibration.samples")
    state, used = workdir / "learned.npz", tuple(_enough(batches, tokens))
    work = _Work(io.load(model), rounders, _resumed(state))
    exact, now = (_Stream(work.loaded, workdir / name, used) for name in ("exact", "now"))
    tables = [entry for entry in plan.quantized if entry.site.role in EMBEDDING_TABLES]
    steps, known = list(_steps(plan)), _Known(work, {entry.site: entry for entry in tables})
    for place, (inputs, found) in enumerate(steps):
        if _learns(found):
            still = {name for _, later in steps[place:] for entry in later for name in entry.site.feeds}
            ahead = frontier(work.loaded, still)
            wanted, given = exact.advance({}, inputs, ahead), now.advance(known, inputs, ahead)
            for entry in found:
                if _learns([entry]) and entry.site.id not in work.learned:
                    work.learn(entry, [given.get(site.id) for site in inputs], [wanted.get(site.id) for site in inputs])
                    progress(entry.site.id)
            write_rounding(state, work.learned)
        known.entries |= {entry.site: entry for entry in found}
    return work.learned


def write_rounding(path: Path, learned: Mapping[str, Learned]) -> None:
    """Write learned codes as .npz; atomic."""
    stream = BytesIO()
    np.savez(stream, **to_arrays(learned))  # type: ignore[arg-type]
    write_atomic(path, stream.getvalue())


def read_rounding(path: Path) -> dict[str, Learned]:
    """Read learned codes; DataError when the file is missing or holds none."""
    fix = "learn them again: `qpipe run` with --from round"
    if not path.is_file():
        raise DataError("no such file of learned codes", where=str(path), fix=fix)
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
            return from_arrays({name: stored[name] for name in stored.files})
    except DAMAGE as error:
        raise DataError("no learned codes, or damaged ones", where=str(path), fix=fix) from error


def told_in(plan: QuantPlan, learned: Mapping[str, Learned]) -> QuantPlan:
    """The plan, its `skipped` naming weights whose inputs could not be sampled, and what was amiss with the others'."""
    notes = {site.id: learned[site.id].note if site.id in learned else UNSAMPLED for site in learned_sites(plan)}
    return replace(plan, skipped=(*plan.skipped, *(Skipped(site, note) for site, note in notes.items() if note)))


def learned_sites(plan: QuantPlan) -> tuple[Site, ...]:
    """The weights that `round_stage` learns."""
    return tuple(entry.site for _, found in _steps(plan) for entry in found if _learns([entry]))


@dataclass
class _Stream:
    """A model on its way through its layers: what is known of each batch so far lies in `folder`."""

    model: io.Model
    folder: Path
    batches: Sequence[Batch]
    known: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        make_folder(self.folder)

    def advance(
        self, weights: Mapping[Site, FloatArray], sites: Sequence[Site], ahead: tuple[str, ...]
    ) -> dict[str, FloatArray]:
        """Compute the tensors `ahead`, with some weights; tokens [n, d] of each site, the same ones at every call."""
        new = [name for name in ahead if name not in self.known]
        if not (new or sites):
            return {}
        cut = sample(self.model, weights, sites, self.folder / "cut.onnx", start=self.known, passed_on=new)
        rows: dict[str, list[FloatArray]] = {site: [] for site in cut.outputs}
        for number, row in enumerate(observe(cut.path, self._fed(cut.tokens))):
            for name in new:
                with writing(self.folder, row[name].nbytes):
                    np.save(self._file(name, number), row[name])
            for site, output in cut.outputs.items():
                rows[site].append(row[output].astype(np.float32, copy=False))
        for name in set(self.known) - set(ahead):
            for number in range(len(self.batches)):
                self._file(name, number).unlink()
        self.known = ahead
        return {site: np.concatenate(rows.pop(site)) for site in cut.outputs}

    def _fed(self, tokens: int | None) -> Iterator[Batch]:
        """Each batch with what is known of it, and the places of its samples."""
        first, examples = 0, sum(map(len, self.batches))
        wanted = examples * TOKENS_AN_EXAMPLE
        for number, batch in enumerate(self.batches):
            mask = batch.inputs.get(MASK_INPUT)
            own = np.ones((len(batch), tokens or 0), bool) if mask is None else mask.astype(bool)
            more: dict[str, Array] = {
                TOKENS_INPUT: sampled_tokens(own, first, examples, wanted),
                EXAMPLES_INPUT: sampled_examples(len(batch), first, examples, wanted),
                **{name: np.load(self._file(name, number)) for name in self.known},
            }
            yield replace(batch, inputs={**batch.inputs, **more})
            first += len(batch)

    def _file(self, name: str, number: int) -> Path:
        return self.folder / f"{sha256(name.encode()).hexdigest()[:16]}-{number}.npy"


@dataclass
class _Work:
    """The model's weights, and what has been learned of them."""

    loaded: io.Model
    rounders: Mapping[Rounding, Rounder]
    learned: dict[str, Learned]
    encodings: dict[str, Encoding] = field(default_factory=dict)

    def learn(self, entry: PlanEntry, now: Sequence[FloatArray | None], exact: Sequence[FloatArray | None]) -> None:
        """Codes of one weight, from the tokens of all that it reads; none where these are not its inputs."""
        assert entry.spec is not None
        weight = self._float(entry.site)
        pairs = [(a, b) for a, b in zip(now, exact, strict=True) if a is not None and b is not None]
        if not pairs or any(a.shape[1] != len(weight) or not len(a) for a, _ in pairs):
            return
        inputs, true = pairs[0] if len(pairs) == 1 else map(np.concatenate, zip(*pairs, strict=True))
        if not (np.all(np.isfinite(inputs)) and np.all(np.isfinite(true))):
            what = "the inputs of this layer hold NaN or infinity on the calibration examples"
            raise NumericsError(what, where=entry.site.id, fix="look at the data, or give the weight rounding: nearest")
        rounder = self.rounders[entry.spec.rounding]
        self.learned[entry.site.id] = rounder(weight, self._encoding(entry), inputs, true @ weight)

    def quantized(self, entry: PlanEntry) -> FloatArray:
        """The weight or table as its codes say, learned or nearest."""
        encoding, learned = self._encoding(entry), self.learned.get(entry.site.id)
        codes = quantize_weight(self._float(entry.site), encoding) if learned is None else learned.codes
        return dequantize(codes, encoding)

    def _encoding(self, entry: PlanEntry) -> Encoding:
        assert entry.spec is not None
        site = entry.site.id
        if site not in self.encodings:
            self.encodings[site] = encode_weight(self._float(entry.site), entry.spec, site=site)
        return self.encodings[site]

    def _float(self, site: Site) -> FloatArray:
        return matrix(self.loaded, site)


@dataclass
class _Known(Mapping[Site, FloatArray]):
    """The weights that are quantized so far, [in, out], made when they are asked for."""

    work: _Work
    entries: dict[Site, PlanEntry]

    def __getitem__(self, site: Site) -> FloatArray:
        return self.work.quantized(self.entries[site])

    def __iter__(self) -> Iterator[Site]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)


def _enough(batches: Sequence[Batch], tokens: int) -> Iterator[Batch]:
    """The first batches that give `tokens` tokens, or all."""
    found = 0
    for batch in batches:
        if found >= tokens:
            return
        yield batch
        mask = batch.inputs.get(MASK_INPUT)
        own = np.full(len(batch), TOKENS_AN_EXAMPLE) if mask is None else mask.astype(np.int64).sum(axis=1)
        found += int(np.minimum(own, TOKENS_AN_EXAMPLE).sum())


def _steps(plan: QuantPlan) -> Iterator[tuple[tuple[Site, ...], list[PlanEntry]]]:
    """The quantized weights that read the same activations, and these, in the order of the data.

    A weight that several layers share is learned where it is first used, on the inputs of all.
    """
    readers: dict[str, Site] = {}
    for site in plan.sites.activations:
        readers |= dict.fromkeys(site.feeds, site)
    steps: dict[tuple[Site, ...], list[PlanEntry]] = {}
    for entry in plan.quantized:
        if entry.site.is_weight and entry.site.role not in EMBEDDING_TABLES:
            inputs = dict.fromkeys(readers[name] for name in entry.site.feeds if name in readers)
            steps.setdefault(tuple(inputs), []).append(entry)
    places = {site: place for place, site in enumerate(plan.sites.activations)}
    yield from sorted(steps.items(), key=lambda step: min((places[site] for site in step[0]), default=-1))


def _learns(entries: Sequence[PlanEntry]) -> bool:
    return any(entry.spec is not None and entry.spec.rounds_by_data for entry in entries)


def _resumed(state: Path) -> dict[str, Learned]:
    """What an interrupted call had learned: a damaged file is only a lost head start."""
    try:
        return read_rounding(state)
    except DataError:
        return {}
