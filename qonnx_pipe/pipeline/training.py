"""Training: the model that a recipe trains, from the store when nothing that determines it has changed."""

from __future__ import annotations

import time
from functools import cache
from hashlib import sha256
from pathlib import Path

from qonnx_pipe import data, tasks
from qonnx_pipe.core.artifact import sha256_json
from qonnx_pipe.core.examples import Examples
from qonnx_pipe.errors import Problem, RecipeError
from qonnx_pipe.pipeline.progress import Listener, Progress
from qonnx_pipe.recipe import Recipe, load
from qonnx_pipe.recipe.data import Calibration
from qonnx_pipe.recipe.library import find
from qonnx_pipe.source.checkpoint import Checkpoint, resolve
from qonnx_pipe.store import Entry, Store, key_of

LIBRARIES = ("torch", "transformers", "tokenizers", "numpy")
SOURCES = (
    "source/finetune.py",
    "source/heads.py",
    "source/training.py",
    "stages/train.py",
    "data/batches.py",
    "data/texts.py",
)
"""The code that decides what a training gives. A fine-tuned model takes minutes to hours: it outlives other changes."""


def train(recipe: Recipe, listen: Listener, store: Store, *, anew: bool = False, chain: tuple[Path, ...] = ()) -> Entry:
    """The checkpoint that `recipe` trains: weights, configuration, tokenizer, `metrics.json`.

    Interrupted, the same call goes on after the last whole epoch. `chain` holds the recipes that wait for this one.
    Raises RecipeError for a recipe that trains nothing or waits for itself, and what `train_stage` raises.
    """
    settings, origin = recipe.train, recipe.origin
    wanted, held = recipe.data.train, recipe.data.validation
    if settings is None or wanted is None or held is None:
        problem = Problem(str(origin.path), "train", "this recipe trains nothing", "add train: and data.train")
        raise RecipeError([problem])
    checkpoint = source_of(recipe, listen, store, chain)
    choices = {"train": wanted, "validation": held} | ({"test": found} if (found := recipe.data.evaluation) else {})
    texts = {name: (load_examples(choice, recipe.model.task), choice) for name, choice in choices.items()}
    sizes = {name: [choice.batch_size, choice.max_length] for name, (_, choice) in texts.items()}
    inputs = {"checkpoint": checkpoint.sha256} | {name: examples.sha256 for name, (examples, _) in texts.items()}
    key = key_of("train", [recipe.model.task, settings.model_dump(mode="json"), sizes], inputs, LIBRARIES, code=_code())
    if not anew and (entry := store.get(key)):
        listen(Progress("train", "cached"))
        return entry

    def build(folder: Path) -> None:
        from qonnx_pipe.data.texts import Texts
        from qonnx_pipe.stages.train import train_stage

        fed = {name: Texts(found, choice.batch_size, choice.max_length) for name, (found, choice) in texts.items()}
        listen(Progress("train", "start", f"training {recipe.name}", fed["train"].steps * settings.epochs))
        train_stage(
            checkpoint,
            fed["train"],
            fed["validation"],
            fed.get("test"),
            folder,
            task=recipe.model.task,
            settings=settings,
            workdir=store.workdir(key),
            progress=lambda done: listen(Progress("train", "step", total=done)),
        )

    begin = time.monotonic()
    entry = store.make(key, "train", build, tuple(inputs.values()), anew=anew)
    listen(Progress("train", "done", seconds=time.monotonic() - begin))
    return entry


def source_of(recipe: Recipe, listen: Listener, store: Store, chain: tuple[Path, ...] = ()) -> Checkpoint:
    """The checkpoint that a recipe starts from; one that another recipe trains is trained first."""
    model = recipe.model
    if model.trained_by is None:
        return resolve(model.location, revision=model.revision, allow_pickle=model.allow_pickle)
    chain = (*chain, recipe.origin.path.absolute())
    path = find(model.trained_by)
    if path.absolute() in chain:
        where = recipe.origin.where(("model", "source"))
        raise RecipeError([Problem(where, "model.source", "a recipe that waits for itself", "name another model")])
    entry = train(load(path), listen, store, chain=chain)
    return resolve(str(entry.directory))


def load_examples(choice: Calibration, task: str) -> Examples:
    """The examples that a part of the recipe's data names, with labels in the form of the task."""
    return data.load(
        choice.location,
        split=choice.split,
        samples=choice.samples,
        seed=choice.seed,
        text_column=choice.text_column,
        label_column=choice.label_column,
        pair_column=choice.pair_column,
        form=tasks.form_of(task),
        shares=choice.shares,
    )


@cache
def _code() -> str:
    package = Path(__file__).parents[1]
    return sha256_json({name: sha256((package / name).read_bytes()).hexdigest() for name in SOURCES})
