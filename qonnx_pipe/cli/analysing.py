"""Analysing: what every analysis needs of a recipe: its float model, examples, a place for the result."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from qonnx_pipe.cli import output

if TYPE_CHECKING:
    from qonnx_pipe.core.examples import Batch, Examples
    from qonnx_pipe.core.plan import QuantPlan
    from qonnx_pipe.pipeline import Stage
    from qonnx_pipe.recipe import Recipe

TOKENS = 4096
"""Tokens to look at unless `--samples` says how many examples: minutes for BERT-base on two cores."""

MOST = 1024
"""Examples to draw these tokens from."""

PATCHES = 197
"""Tokens of an image: those of ViT-Base at 224 pixels."""


@dataclass(frozen=True)
class Choice:
    """What an analysis needs: the pipeline up to a stage, and examples (None: as many as hold TOKENS tokens).

    `judged`: its outputs are compared, so that the task must be one of those that can be validated.
    """

    last: Stage
    part: Literal["calibration", "evaluation"]
    samples: int | None
    judged: bool = True


@dataclass(frozen=True)
class Made:
    """A recipe with its plan, in a folder that lasts as long as the analysis, and the examples to run on."""

    recipe: Recipe
    folder: Path
    examples: Examples
    max_length: int
    bounded: bool

    @property
    def model(self) -> Path:
        """The float model."""
        return self.folder / "float" / "model.onnx"

    @property
    def plan(self) -> QuantPlan:
        """What the plan stage decided."""
        from qonnx_pipe.core.plan import QuantPlan

        return QuantPlan.from_json(json.loads((self.folder / "plan.json").read_bytes()))

    @property
    def tokenizer(self) -> Path:
        """What stands beside it."""
        return self.model.with_name("tokenizer.json")

    def batches(self, size: int) -> list[Batch]:
        """The examples, `size` at a time, in seeded order."""
        from qonnx_pipe import data
        from qonnx_pipe.graph.summary import summarise

        names = [port.name for port in summarise(self.model).inputs]
        made = data.batches(self.examples, self.tokenizer, names, batch_size=size, max_length=self.max_length)
        return list(_bounded(made)) if self.bounded else made


def _bounded(batches: list[Batch]) -> Iterator[Batch]:
    """Whole batches until they hold TOKENS tokens."""
    tokens = 0
    for batch in batches:
        if tokens >= TOKENS:
            return
        mask = batch.inputs.get("attention_mask")
        tokens += PATCHES * len(batch) if mask is None else int(mask.astype("int64").sum())
        yield batch


@contextmanager
def prepared(recipe: Path, overrides: tuple[str, ...], choice: Choice, *, quiet: bool) -> Iterator[Made]:
    """The examples, and the recipe run up to a stage, out of the pipeline's cache where it holds that."""
    import tempfile

    from qonnx_pipe import pipeline, tasks
    from qonnx_pipe.cli.following import Follower
    from qonnx_pipe.pipeline.training import load_examples
    from qonnx_pipe.pipeline.work import Work
    from qonnx_pipe.recipe import load
    from qonnx_pipe.store import Store

    loaded = load(recipe, overrides)
    if choice.judged:
        tasks.find(loaded.model.task)
    with tempfile.TemporaryDirectory(prefix="qpipe-") as scratch, Follower(quiet=quiet) as follower:
        folder, store = Path(scratch), Store()
        wanted = Work(loaded, folder, follower.hear, store).choice(choice.part)
        most = choice.samples or MOST
        most = min(most, wanted.samples or most)
        examples = load_examples(wanted.model_copy(update={"samples": most}), loaded.model.task)
        pipeline.run(loaded, folder, follower.hear, store=store, last=choice.last)
        yield Made(loaded, folder, examples, wanted.max_length, choice.samples is None)


def write(out: Path | None, recipe: str, name: str, document: object, page: str | None) -> Path:
    """Put the result, and its page if it has one, into the folder; where people should look."""
    from qonnx_pipe.core.files import write_atomic, write_json

    folder = out or Path("runs") / recipe / "analysis"
    write_json(folder / f"{name}.json", document)
    if page is None:
        return folder / f"{name}.json"
    write_atomic(folder / f"{name}.html", page)
    return folder / f"{name}.html"


def say(document: object, as_json: bool, show: Callable[[], None], place: Path) -> None:
    """The result on stdout, as JSON or as `show` prints it."""
    if as_json:
        output.emit_json(document)
    else:
        show()
        output.stdout().print(f"written to {place}", markup=False)
