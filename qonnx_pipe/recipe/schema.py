"""The schema of a recipe: what each key means, what it may be and what it is when left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, PrivateAttr, model_validator

from qonnx_pipe.recipe.quantize import Quantize
from qonnx_pipe.recipe.strict import Fraction, Positive, Strict, mistake

Task = Literal[
    "feature-extraction",
    "fill-mask",
    "text-classification",
    "token-classification",
    "question-answering",
    "image-classification",
    "text-generation",
    "text2text-generation",
]
Key = tuple[str | int, ...]


def dotted(key: Key) -> str:
    """A key as a reader sees it: quantize.rules[1].match.role."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in key)
    return text.removeprefix(".")


@dataclass(frozen=True)
class Origin:
    """Where a recipe comes from: its file, and where each key stands ("file.yaml:12" or "--set")."""

    path: Path = Path()
    places: Mapping[Key, str] = field(default_factory=dict)

    def where(self, key: Key) -> str:
        """Place of a key, or of the nearest mapping or list around it."""
        for length in range(len(key), 0, -1):
            if key[:length] in self.places:
                return self.places[key[:length]]
        return self.places.get((), str(self.path))


class Sourced(Strict):
    """Something that is loaded from somewhere."""

    source: Annotated[str, Field(min_length=1)] = Field(
        description="`package:NAME/path/inside` an installed package; a file or folder (relative: looked for beside "
        "the recipe, then in the working directory); or a hub id: `owner/name` for models, `hub:NAME` for data."
    )
    _folder: Path = PrivateAttr(Path())

    def model_post_init(self, context: object) -> None:
        """Remember the recipe's folder."""
        if isinstance(context, Origin):
            self._folder = context.path.parent

    @property
    def location(self) -> str:
        """`source` with a path made absolute; a package, a hub id or what does not exist stays as it is written."""
        if self.source.startswith(("package:", "hub:")):
            return self.source
        written = Path(self.source).expanduser()
        for candidate in (self._folder / written, written):
            if candidate.exists():
                return str(candidate.absolute())
        return str((self._folder / written).absolute()) if self.source.startswith((".", "~")) else self.source


class ModelChoice(Sourced):
    """The float model."""

    task: Task = Field(description="What the model is for; decides its head, its outputs and its metric.")
    opset: Annotated[int, Field(ge=17, le=25)] = Field(default=21, description="ONNX opset of the exported graph.")
    revision: str | None = Field(default=None, description="Branch, tag or commit of a hub id.")
    trust_remote_code: bool = Field(
        default=False, description="Run Python code that the model's repository brings along."
    )
    allow_pickle: bool = Field(
        default=False, description="Load weights from pickle files, which can run code when opened."
    )


class Calibration(Sourced):
    """Examples that the activations' ranges are taken from."""

    split: str | None = Field(default="train", description="train, validation, test or all.")
    samples: Positive | None = Field(default=256, description="How many examples, drawn by `seed`; null: all.")
    batch_size: Positive = Field(default=16, description="Examples that run together.")
    max_length: Positive = Field(default=128, description="Tokens at which a text is cut.")
    seed: Annotated[int, Field(ge=0)] = Field(default=0, description="Seed of the draw.")
    text_column: str | None = Field(default=None, description="Column that holds the text, where it cannot be guessed.")
    label_column: str | None = Field(
        default=None, description="Column that holds the label, where it cannot be guessed."
    )


class Evaluation(Calibration):
    """Examples that float and quantized model are compared on."""

    split: str | None = Field(default="test", description="train, validation, test or all.")
    samples: Positive | None = Field(default=None, description="How many examples, drawn by `seed`; null: all.")


class Data(Strict):
    """Where examples come from. The two should not overlap: different splits of one source never do."""

    calibration: Calibration = Field(description="Examples that the activations' ranges are taken from.")
    evaluation: Evaluation = Field(description="Examples that float and quantized model are compared on.")


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

    @property
    def limits(self) -> dict[str, float]:
        """Gate → limit, of those that are given."""
        return {name: float(limit) for name, limit in self if limit is not None}


class Validation(Strict):
    """How the result is judged."""

    providers: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)] = Field(
        default=("cpu",), description="Execution providers to run on; `qpipe providers` lists those of this machine."
    )
    latency: Latency = Field(default=Latency(), description="How speed is measured.")
    gates: Gates = Field(default=Gates(), description="Limits that the verdict is judged by.")

    @model_validator(mode="after")
    def _can_be_judged(self) -> Self:
        if self.gates.speedup is not None and not self.latency.shapes:
            raise mistake("the gate needs timings", key="gates.speedup", fix="give validate.latency.shapes a shape")
        for index, name in enumerate(self.providers):
            if name in self.providers[:index]:
                raise mistake("{name} is named twice", key=f"providers.{index}", fix="remove one", name=name)
        return self


class Recipe(Strict):
    """Everything that decides a run: model, data, quantization and what must come out."""

    version: Literal[1] = Field(description="Version of this format: 1.")
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] = Field(
        description="Name of the recipe (letters, digits, dot, dash, underscore); its run directory is named so."
    )
    model: ModelChoice = Field(description="The float model.")
    data: Data = Field(description="Where examples come from.")
    quantize: Quantize = Field(default=Quantize(), description="What becomes integer, and how.")
    validation: Validation = Field(default=Validation(), alias="validate", description="How the result is judged.")
    _origin: Origin = PrivateAttr(Origin())

    def model_post_init(self, context: object) -> None:
        """Remember the recipe's file and the places of its keys."""
        if isinstance(context, Origin):
            self._origin = context

    @property
    def origin(self) -> Origin:
        """Where the recipe comes from."""
        return self._origin


def json_schema() -> dict[str, object]:
    """JSON Schema (draft 2020-12) of recipes; every key has a description."""
    schema = Recipe.model_json_schema()
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "qonnx_pipe recipe",
        "description": Recipe.__doc__,
        **{key: value for key, value in schema.items() if key not in ("title", "description")},
    }
