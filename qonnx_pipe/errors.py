"""Every failure that a user can see, each with the exit code of the process that met it.

Raise the class whose docstring fits; give `what` happened, `where` (file:line, dotted key, node or path) and
`fix` (what to do about it). The command line prints exactly these three and exits with `exit_code`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class QpipeError(Exception):
    """A failure with one clear message; subclasses fix the exit code."""

    exit_code = 70

    def __init__(self, what: str, *, where: str = "", fix: str = "") -> None:
        self.what, self.where, self.fix = what, where, fix
        super().__init__(what)

    def __str__(self) -> str:
        lines = [f"{self.where}: {self.what}" if self.where else self.what]
        if self.fix:
            lines.append(f"  fix: {self.fix}")
        return "\n".join(lines)

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.what, self.where, self.fix))


def _rebuild(kind: type[QpipeError], what: str, where: str, fix: str) -> QpipeError:
    return kind(what, where=where, fix=fix)


class GateFailed(QpipeError):
    """A gate of the recipe was missed; the verdict is written."""

    exit_code = 1


class UsageError(QpipeError):
    """The command line asks for something that cannot be: a wrong option, an output that cannot be written."""

    exit_code = 2


@dataclass(frozen=True)
class Problem:
    """One mistake in a recipe: where it stands, which key it is, what is wrong, what to write instead."""

    where: str
    key: str
    what: str
    fix: str = ""

    def __str__(self) -> str:
        text = f"{self.where}: {self.key}: {self.what}" if self.key else f"{self.where}: {self.what}"
        return f"{text}\n  fix: {self.fix}" if self.fix else text


class RecipeError(QpipeError):
    """A recipe with mistakes: all of them at once, each with file:line and dotted key."""

    exit_code = 2

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))

    def __reduce__(self) -> tuple[object, ...]:
        return (RecipeError, (self.problems,))


class ModelError(QpipeError):
    """The input model is missing, damaged, unsafe or of no supported architecture."""

    exit_code = 3


class DataError(QpipeError):
    """The input data are missing, empty, or do not fit the model."""

    exit_code = 3


class NumericsError(QpipeError):
    """A tensor holds NaN or infinity where numbers are needed."""

    exit_code = 3


class ProviderError(QpipeError):
    """An execution provider is unknown, not installed, or failed while running."""

    exit_code = 4


class Interrupted(QpipeError):
    """Work stopped before its end (Ctrl-C, a full disk); what is done is kept and the same command resumes."""

    exit_code = 5


class MissingDependency(QpipeError):
    """An optional part of qonnx-pipe is needed and not installed."""

    exit_code = 2
