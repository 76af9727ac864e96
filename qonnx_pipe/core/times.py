"""Times: how long a run is expected to take by the bits of each weight, made of what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

FLOAT = 32
"""Bits of a weight that stays float."""


@dataclass(frozen=True)
class Times:
    """The content of `times.json`, in milliseconds.

    `float_ms`: the float model as exported, on `provider` with `threads`, at `shape` [batch, sequence]; the median of
    `rounds` rounds. `noise`: how far apart the ends of the widest 95 % interval of a file's speed-up over it are, over
    their middle. `matrices`: site → bits (FLOAT among them) → what it takes; `rest_ms`: all else.
    """

    provider: str
    shape: tuple[int, int]
    threads: int
    rounds: int
    float_ms: float
    rest_ms: float
    noise: float
    matrices: Mapping[str, Mapping[int, float]]

    def of(self, site: str, bits: int) -> float:
        """What a matrix takes, ms; 0 for a table, which is looked up."""
        return self.matrices[site][bits] if site in self.matrices else 0.0

    def to_json(self) -> dict[str, object]:
        """Plain values."""
        matrices = {site: {str(bits): ms for bits, ms in own.items()} for site, own in self.matrices.items()}
        return {"version": 1, **asdict(self), "matrices": matrices}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Times:
        """The inverse of `to_json`; KeyError, TypeError or ValueError on anything that `to_json` does not write."""
        batch, sequence = data["shape"]
        return cls(
            data["provider"],
            (batch, sequence),
            data["threads"],
            data["rounds"],
            data["float_ms"],
            data["rest_ms"],
            data["noise"],
            {site: {int(bits): ms for bits, ms in own.items()} for site, own in data["matrices"].items()},
        )


def shared_out(
    wholes: Mapping[int, float], kernels: Mapping[str, Mapping[int, float]]
) -> tuple[float, dict[str, dict[int, float]]]:
    """What is left of the file whose weights are all float, and what each weight takes at each width, ms.

    `wholes`: of a file whose weights all have some bits, bits → ms, FLOAT among them. `kernels`: site → bits → ms of
    its MatMul alone. What two files differ by beyond their MatMuls (quantizers, fusions) falls to the weights, in
    proportion to their float MatMuls, so that a weight everywhere at one width gives the file that was timed.
    """
    floats = {site: own[FLOAT] for site, own in kernels.items()}
    total = sum(floats.values())
    rest = wholes[FLOAT] - total
    beyond = {bits: whole - rest - sum(own[bits] for own in kernels.values()) for bits, whole in wholes.items()}
    shares = {site: ms / total for site, ms in floats.items()}
    return rest, {
        site: {bits: own[bits] + beyond[bits] * shares[site] for bits in wholes} for site, own in kernels.items()
    }
