"""Process: call a function in a process of its own, so that its peak memory is its own too."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

from qonnx_pipe.runtime.machine import peak_rss


@dataclass(frozen=True)
class Spent:
    """What a call took: seconds of its process's clock, bytes of its process's peak memory."""

    seconds: float
    peak_rss: int


def alone(function: Callable[..., float], *arguments: object) -> Spent:
    """Call a module's function, which returns the seconds that count, in a new interpreter."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_measured, function, *arguments).result()


def _measured(function: Callable[..., float], *arguments: object) -> Spent:
    seconds = function(*arguments)
    return Spent(seconds, peak_rss())
