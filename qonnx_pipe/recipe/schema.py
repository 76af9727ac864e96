"""The schema of a recipe: what each key means, what it may be and what it is when left out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, PrivateAttr, model_validator

from qonnx_pipe.recipe.data import Data, Text
from qonnx_pipe.recipe.origin import RECIPE, Origin, Placed
from qonnx_pipe.recipe.quantize import Quantize
from qonnx_pipe.recipe.strict import Fraction, Positive, Strict, mistake
from qonnx_pipe.recipe.training import Training

Task = Literal[
    "feature-extraction",
    "fill-mask",
    "text-classification",
    "text-regression",
    "token-classification",
    "question-answering",
    "image-classification",
    "text-generation",
    "text2text-generation",
]


TRAINABLE = ("text-classification", "text-regression", "token-classification", "question-answering")
"""Tasks whose heads `qpipe train` learns."""


class ModelChoice(Placed):
    """The float model."""

    source: Text = Field(
        description="`package:NAME/path/inside` an installed package; a folder (relative: looked for beside the "
        "recipe, then in the working directory); a hub id `owner/name`; or `recipe:NAME_OR_PATH`: the model that "
        "another recipe trains."
    )
    task: Task = Field(description="What the model is for; decides its head, its outputs and its metric.")
    opset: Annotated[int, Field(ge=17, le=25)] = Field(default=21, description="ONNX opset of the exported graph.")
    revision: str | None = Field(default=None, description="Branch, tag or commit of a hub id.")
    trust_remote_code: bool = Field(
        default=False, description="Run Python code that the model's repository brings along."
    )
    allow_pickle: bool = Field(
        default=False, description="Load weights from pickle files, which can run code when opened."
    )

    @property
    def location(self) -> str:
        """`source`, with a path made absolute."""
        return self.located(self.source)

    @property
    def trained_by(self) -> str | None:
        """The recipe that trains the model, a path or a packaged recipe's name; None for a model that is there."""
        if not self.source.startswith(RECIPE):
            return None
        written = self.source.removeprefix(RECIPE)
        beside = self._folder / written
        return str(beside) if beside.exists() else written


class Latency(Strict):
    """How speed is measured: float and quantized model in turn, each in a process of its own."""

    shapes: tuple[tuple[Positive, Positive], ...] = Field(
        default=((1, 128), (8, 128)), description="[batch, sequence] pairs to time; an empty list: no timing."
    )
    rounds: Annotated[int, Field(ge=3)] = Field(
        default=10,
        description="Rounds of float and quantized in turn, each one a pair for the interval of the speed-up.",
    )


class Gates(Strict):
    """Limits that the verdict is judged by; a missed one makes `qpipe` exit with 1. A gate left out is not judged."""

    accuracy_drop: Fraction | None = Field(
        default=None, description="Most that the task's metric may fall, absolute (0.01: one point)."
    )
    speedup: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="Least speed-up over float, at the worst shape."
    )
    int8_matmuls: Fraction | None = Field(
        default=None, description="Least share of weight MatMuls that run in integer kernels."
    )
    size_ratio: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="Least ratio of the float file's size to the quantized one's."
    )
    sqnr_db: float | None = Field(
        default=None, description="Least signal-to-quantization-noise ratio of the output, in dB."
    )
    agreement: Fraction | None = Field(
        default=None, description="Least share of examples with the same answer as float."
    )
    trained_sqnr_db: float | None = Field(
        default=None, description="Least SQNR of the executed file beside the torch model that qat trained, in dB."
    )

    @property
    def limits(self) -> dict[str, float]:
        """Gate → limit, of those that are given."""
        return {name: float(limit) for name, limit in self if limit is not None}


class Validation(Placed):
    """How the result is judged."""

    providers: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)] = Field(
        default=("cpu",), description="Execution providers to run on; `qpipe providers` lists those of this machine."
    )
    fallback: bool = Field(
        default=True,
        description="false: a provider that leaves any node to the CPU has failed. true: such nodes are listed.",
    )
    interpreters: Mapping[str, Text] = Field(
        default={},
        description="Provider: Python interpreter that its workers run under (relative: looked for beside the recipe, "
        "then in the working directory); `qpipe environment` makes one.",
    )
    time_limit: Annotated[float, Field(gt=0)] = Field(
        default=600.0, description="Seconds; a worker that answers nothing for so long is killed: its provider failed."
    )
    memory_limit: Positive | None = Field(
        default=None, description="Most memory of a worker, in MB; on Linux alone. Left out: what there is."
    )
    latency: Latency = Field(default=Latency(), description="How speed is measured.")
    gates: Gates = Field(default=Gates(), description="Limits that the verdict is judged by.")
    baseline: Text | None = Field(
        default=None,
        description="An earlier verdict.json of the same task and providers (relative: looked for beside the recipe, "
        "then in the working directory). What is worse by more than noise fails a gate.",
    )

    @model_validator(mode="after")
    def _can_be_judged(self) -> Self:
        if self.gates.speedup is not None and not self.latency.shapes:
            raise mistake("the gate needs timings", key="gates.speedup", fix="give validate.latency.shapes a shape")
        for index, name in enumerate(self.providers):
            if name in self.providers[:index]:
                raise mistake("{name} is named twice", key=f"providers.{index}", fix="remove one", name=name)
        for name in self.interpreters:
            if name not in self.providers:
                raise mistake(
                    "{name} is none of the providers", key=f"interpreters.{name}", fix="add it to them", name=name
                )
        return self

    @property
    def pythons(self) -> dict[str, Path]:
        """`interpreters` with relative paths found."""
        return {name: Path(self.located(written)) for name, written in self.interpreters.items()}

    @property
    def baseline_file(self) -> Path | None:
        """`baseline` as a path; None without one."""
        return None if self.baseline is None else Path(self.located(self.baseline))


class Recipe(Strict):
    """Everything that decides a run: model, data, quantization and what must come out."""

    version: Literal[1] = Field(description="Version of this format: 1.")
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] = Field(
        description="Name of the recipe (letters, digits, dot, dash, underscore); its run directory is named so."
    )
    model: ModelChoice = Field(description="The float model.")
    data: Data = Field(description="Where examples come from.")
    train: Training | None = Field(default=None, description="How the model is fine-tuned: `qpipe train`.")
    quantize: Quantize = Field(default=Quantize(), description="What becomes integer, and how.")
    validation: Validation = Field(default=Validation(), alias="validate", description="How the result is judged.")
    _origin: Origin = PrivateAttr(Origin())

    @model_validator(mode="after")
    def _has_its_data(self) -> Self:
        """A recipe names the data of what it does: of training, of quantization, or of both."""
        wanted = {"train", "validation"} if self.train else {"calibration", "evaluation"}
        if self.quantize.qat:
            wanted |= {"train", "validation"}
        for name in sorted(wanted):
            if getattr(self.data, name) is None:
                raise mistake("missing key", key=f"data.{name}", fix=_ADD[name])
        if self.validation.gates.trained_sqnr_db is not None and self.quantize.qat is None:
            what, fix = "nothing is trained that this gate could be about", "add quantize.qat, or leave the gate out"
            raise mistake(what, key="validate.gates.trained_sqnr_db", fix=fix)
        if self.train and self.quantize.qat:
            fix = "train the float model in a recipe of its own, and name it here as model.source: recipe:NAME"
            raise mistake("a recipe trains the float model or the quantized one", key="quantize.qat", fix=fix)
        if (self.train or self.quantize.qat) and self.model.task not in TRAINABLE:
            what, fix = "{task} cannot be trained", f"one of {', '.join(TRAINABLE)}"
            raise mistake(what, key="model.task", fix=fix, task=self.model.task)
        return self

    def model_post_init(self, context: object) -> None:
        """Remember the recipe's file and the places of its keys."""
        if isinstance(context, Origin):
            self._origin = context

    @property
    def origin(self) -> Origin:
        """Where the recipe comes from."""
        return self._origin


_ADD = {name: f"add {name}: {(info.description or '').partition(';')[0]}" for name, info in Data.model_fields.items()}


def json_schema() -> dict[str, object]:
    """JSON Schema (draft 2020-12) of recipes; every key has a description."""
    schema = Recipe.model_json_schema()
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "qonnx_pipe recipe",
        "description": Recipe.__doc__,
        **{key: value for key, value in schema.items() if key not in ("title", "description")},
    }
