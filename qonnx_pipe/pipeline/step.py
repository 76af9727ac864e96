"""Step: one stage of one run, by everything that determines what it makes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from qonnx_pipe.core.stages import Stage
from qonnx_pipe.pipeline.work import libraries
from qonnx_pipe.store import key_of

ENCODINGS, VERDICT = "encodings.json", "verdict.json"
"""Files that more than one step knows."""


@dataclass(frozen=True)
class Step:
    """One stage of one run: `config` and `inputs` (name → SHA-256) determine what `build` writes into a folder."""

    stage: Stage
    config: object
    inputs: Mapping[str, str]
    build: Callable[[Path], None]

    @cached_property
    def key(self) -> str:
        """Where the store keeps what it makes."""
        return key_of(self.stage, self.config, self.inputs, libraries([self.stage]))
