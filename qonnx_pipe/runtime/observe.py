"""Observe: run an instrumented model over batches and hand out what each one showed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from qonnx_pipe.core.examples import Batch
from qonnx_pipe.errors import NumericsError
from qonnx_pipe.runtime.session import open_session, run_session

Arrays = Mapping[str, npt.NDArray[np.generic]]


def observe(model: Path, batches: Sequence[Batch], outputs: Sequence[str], *, first: int = 0) -> Iterator[Arrays]:
    """All outputs of `model` for each batch from number `first` on, one batch in memory at a time.

    `outputs` are those of the float model: NaN or infinity there raises NumericsError naming the batch. Raises what
    `open_session` and `run_session` raise.
    """
    session = open_session(model, memory_pattern=False)
    for index in range(first, len(batches)):
        values = run_session(session, batches[index].inputs, model=model)
        for name in outputs:
            if not np.all(np.isfinite(values[name])):
                raise NumericsError(
                    f"the float model's output {name!r} holds NaN or infinity on calibration batch {index}",
                    where=str(model),
                    fix="check the model and this batch's examples",
                )
        yield values
