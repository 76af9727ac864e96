"""Inputs of an exact shape for timing: real tokens where there are data, made-up ones where there are none."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from qonnx_pipe.core.examples import Batch
from qonnx_pipe.core.port import Port
from qonnx_pipe.errors import DataError, ModelError

DTYPES = {"float": "float32", "float16": "float16", "int64": "int64", "int32": "int32", "bool": "bool"}
VOCABULARY = 64
"""Made-up token ids stay below it, so that they fit the smallest embedding table."""

TOKENS = 2
"""Rank of inputs that hold tokens: [batch, sequence]."""

Inputs = dict[str, npt.NDArray[np.generic]]


def from_batches(batches: Sequence[Batch], batch: int, sequence: int) -> Inputs:
    """Inputs [batch, sequence] without padding, filled with the batches' own tokens, repeated where they run out.

    Token ids are those that the attention mask keeps; the mask is all ones, every other input all zeros. Inputs
    without `input_ids` (images) keep their shape but the first axis; `sequence` does not apply to them.
    """
    inputs = batches[0].inputs
    if "input_ids" not in inputs:
        return {name: np.resize(values, (batch, *values.shape[1:])) for name, values in inputs.items()}
    tokens = np.concatenate([_kept(one) for one in batches])
    shaped = {name: np.zeros((batch, sequence), values.dtype) for name, values in inputs.items()}
    shaped["input_ids"] = np.resize(tokens, (batch, sequence))
    if "attention_mask" in shaped:
        shaped["attention_mask"] = np.ones_like(shaped["attention_mask"])
    return shaped


def of_shape(batches: Iterable[Batch], batch: int, sequence: int) -> Iterator[Batch]:
    """The same examples as batches of [batch, sequence], padded with rows and tokens that no mask keeps.

    The last batch says by its labels how many rows are examples. DataError for a longer text, or for none.
    """
    rows = [(one, row) for one in batches for row in range(len(one))]
    for start in range(0, len(rows), batch):
        group = rows[start : start + batch]
        inputs: Inputs = {}
        for place, (one, row) in enumerate(group):
            for name, values in one.inputs.items():
                if values.ndim != TOKENS or values.shape[1] > sequence:
                    what = f"the model takes [{batch}, {sequence}] tokens, input {name!r} has {list(values.shape)}"
                    raise DataError(what, fix=f"give max_length: {sequence}, or quantize for another shape")
                filled = inputs.setdefault(name, np.zeros((batch, sequence), values.dtype))
                filled[place, : values.shape[1]] = values[row]
        labels = tuple(one.labels[row] for one, row in group)
        yield Batch(inputs, labels, tuple(one.readings[row] for one, row in group if one.readings))


def made_up(ports: Sequence[Port], batch: int, sequence: int, *, seed: int = 0) -> Inputs:
    """Inputs for these ports: random token ids and pixels, masks of ones, zeros for the rest.

    A free first dimension is `batch`, any other free one `sequence`. ModelError for types that are no numbers.
    """
    rng = np.random.default_rng(seed)
    return {port.name: _filled(port, batch, sequence, rng) for port in ports}


def _filled(port: Port, batch: int, sequence: int, rng: np.random.Generator) -> npt.NDArray[np.generic]:
    if port.dtype not in DTYPES:
        raise ModelError(f"cannot make up input {port.name!r} of type {port.dtype}", fix="give a model of numbers")
    free = (batch, *(sequence for _ in port.shape[1:]))
    shape = [size if isinstance(size, int) else given for size, given in zip(port.shape, free, strict=False)]
    dtype = np.dtype(DTYPES[port.dtype])
    if dtype.kind == "f":
        return rng.standard_normal(shape).astype(dtype)
    if port.name == "input_ids":
        return rng.integers(1, VOCABULARY, shape).astype(dtype)
    return np.full(shape, "mask" in port.name, dtype)


def _kept(batch: Batch) -> npt.NDArray[np.generic]:
    ids = batch.inputs["input_ids"]
    mask = batch.inputs.get("attention_mask")
    return ids.ravel() if mask is None else ids[mask.astype(bool)]
