"""Observe: run an instrumented model over batches and hand out what each one showed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from qonnx_pipe.core.examples import Batch
from qonnx_pipe.runtime.session import open_session, run_session

Arrays = Mapping[str, npt.NDArray[np.generic]]


def observe(model: Path, batches: Iterable[Batch]) -> Iterator[Arrays]:
    """All outputs of `model` for each batch, one batch in memory at a time.

    Raises what `open_session` and `run_session` raise.
    """
    session = open_session(model, observed=True)
    for batch in batches:
        yield run_session(session, batch.inputs, model=model)
