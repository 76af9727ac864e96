"""Tuning: the settings that were tried on a provider, what each gained, and which were kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from qonnx_pipe.core.verdict import Interval


@dataclass(frozen=True)
class Trial:
    """One change of settings against the best file before it.

    `change`: the keys under `quantize` that say it in a recipe. `speedup`: of the changed file over that best file,
    with its 95 % interval; None where it was not timed. `sqnr_db`: of the outputs against float; None without outputs.
    `reason`: why the change was kept, or why not.
    """

    name: str
    change: Mapping[str, Any]
    speedup: float | None
    interval: Interval | None
    sqnr_db: float | None
    kept: bool
    reason: str


@dataclass(frozen=True)
class Tuning:
    """A search on one provider, at [batch, sequence], in the order of its trials.

    `sqnr_db`: of the file that the recipe describes; a kept change stays above `least_sqnr_db`.
    """

    provider: str
    shape: tuple[int, int]
    rounds: int
    sqnr_db: float
    least_sqnr_db: float
    trials: tuple[Trial, ...]

    @property
    def kept(self) -> tuple[Trial, ...]:
        """The changes that the tuned file has."""
        return tuple(trial for trial in self.trials if trial.kept)

    def to_json(self) -> dict[str, object]:
        """Plain values for `tuning.json`."""
        return {"version": 1, **asdict(self)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Tuning:
        """The inverse of `to_json`; KeyError, TypeError or ValueError on anything that `to_json` does not write."""
        batch, sequence = data["shape"]
        return cls(
            data["provider"],
            (batch, sequence),
            data["rounds"],
            data["sqnr_db"],
            data["least_sqnr_db"],
            tuple(_trial(trial) for trial in data["trials"]),
        )


def _trial(data: Mapping[str, Any]) -> Trial:
    low_high = data["interval"]
    interval = None if low_high is None else (low_high[0], low_high[1])
    return Trial(**{**data, "interval": interval})
