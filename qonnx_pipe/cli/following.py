"""Following: a running pipeline on a terminal, one line a stage and a progress bar within it."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Self

from qonnx_pipe.cli import output

if TYPE_CHECKING:
    from qonnx_pipe.pipeline import Progress


class Follower:
    """Hears a pipeline's progress; with `quiet` only the log hears it."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._console = output.stderr()
        self._stack = ExitStack()
        self._bar: output.Bar | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def hear(self, progress: Progress) -> None:
        """Show one thing that the pipeline says."""
        match progress.kind:
            case "cached":
                self._line(progress.stage, "unchanged")
            case "done":
                self._stack.close()
                self._bar = None
                self._line(progress.stage, f"{progress.seconds:.1f} s")
            case "warning":
                output.LOGGER.warning("%s: %s", progress.stage, progress.text)
            case "start" if progress.total:
                self._bar = self._stack.enter_context(output.progress(progress.text, progress.total))
            case "step":
                if progress.text:
                    output.LOGGER.info("%s: %s", progress.stage, progress.text)
                if self._bar is not None and progress.total:
                    self._bar.advance(progress.total)

    def _line(self, stage: str, text: str) -> None:
        if not self._quiet and output.LOGGER.isEnabledFor(logging.WARNING):
            self._console.print(f"{stage:<12}{text}", markup=False)
