"""Settings: what a recipe may say about a quantizer, key by key; a key left out keeps what was said before."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from qonnx_pipe.core.granularity import Boundaries, Permute, Share
from qonnx_pipe.core.qtype import QTYPES
from qonnx_pipe.core.spec import Form, RangeMethod, Rounding
from qonnx_pipe.recipe.strict import Fraction, Positive, Strict, mistake

if TYPE_CHECKING:
    ActivationType = str
    WeightType = str
else:
    ActivationType = Literal[(*QTYPES, "float")]
    WeightType = Literal[(*(name for name, qtype in QTYPES.items() if qtype.bits <= 8), "float")]


def _form(value: object) -> str:
    """Which branch of a union a value is meant for; `~` marks what is no key in the place of a mistake."""
    if isinstance(value, Mapping | Strict):
        return "~mapping"
    return "~list" if isinstance(value, tuple) else "~scalar"


def _weight_form(value: object) -> str:
    """As `_form`, with the two kinds of groups told apart."""
    if isinstance(value, OutputGroups) or (isinstance(value, Mapping) and "per_output_group" in value):
        return "~outputs"
    return _form(value).replace("~list", "~scalar")


class WeightGroups(Strict):
    """Groups of consecutive input elements of a weight."""

    per_group: Positive = Field(
        description="Elements that share a scale: consecutive inputs of a MatMul weight, consecutive embedding "
        "dimensions of a table. The axis must divide by it."
    )


class OutputGroups(Strict):
    """Groups of consecutive output neurons of a weight (Shen et al. 2019, section 3.3)."""

    per_output_group: Positive = Field(
        description="Number of groups of output neurons of a MatMul weight, each with one scale; the outputs must "
        "divide by it. In the query, key and value projections no group holds neurons of two heads."
    )


class ActivationGroups(Strict):
    """Groups of embedding dimensions of an activation (PEG, Bondarenko et al. 2021, section 4)."""

    per_embedding_group: Annotated[
        Annotated[Positive, Tag("~scalar")]
        | Annotated[Annotated[tuple[Positive, ...], Field(min_length=1)], Tag("~list")],
        Discriminator(_form),
    ] = Field(
        description="A number K: K equal groups, and the embedding must divide by K. A list: the sizes of the "
        "groups, which must add up to the embedding's width."
    )


WeightGranularity = Annotated[
    Annotated[Literal["per_tensor", "per_channel", "per_row"], Tag("~scalar")]
    | Annotated[WeightGroups, Tag("~mapping")]
    | Annotated[OutputGroups, Tag("~outputs")],
    Discriminator(_weight_form),
]
ActivationGranularity = Annotated[
    Annotated[Literal["per_tensor", "per_embedding"], Tag("~scalar")] | Annotated[ActivationGroups, Tag("~mapping")],
    Discriminator(lambda value: _form(value).replace("~list", "~scalar")),
]

_SYMMETRIC = (
    "Whether zero stands in the middle of the codes: zero point 0 for signed types, the middle code for unsigned."
)


class Weights(Strict):
    """Quantizer of MatMul weights or embedding tables. Starts from int8, per_channel, symmetric, minmax."""

    dtype: WeightType | None = Field(
        default=None, description="Integer type of at most 8 bits, or float: stays as it is. At first int8."
    )
    granularity: WeightGranularity | None = Field(
        default=None,
        description="What shares a scale. per_tensor: everything. per_channel (the default): each output channel of "
        "a weight, each embedding dimension of a table. per_row: each input of a weight, each row of a table. "
        "{per_group: N}: blocks of N consecutive inputs, or dimensions of a table. {per_output_group: N}: N groups of "
        "output neurons (Q-BERT).",
    )
    symmetric: bool | None = Field(default=None, description=f"{_SYMMETRIC} For weights true at first.")
    range: Literal["minmax", "mse"] | None = Field(
        default=None,
        description="minmax (the default): nothing is clipped. mse: the range of least mean squared error.",
    )
    rounding: Rounding | None = Field(
        default=None,
        description="nearest (the default). adaround: up or down is learned so that each layer's output stays closest "
        "(Nagel et al. 2020); needs torch and minutes. gptq: each input's codes make up for the errors of those before "
        "(Frantar et al. 2022); seconds.",
    )

    accuracy_level: Literal[0, 4] | None = Field(
        default=None,
        description="For {per_group: N} on target cpu, how onnxruntime's MatMulNBits multiplies. 4 (the default): it "
        "quantizes the activation to 8 bits, block by block, and multiplies integers. 0: in float, slower.",
    )

    @field_validator("dtype", mode="before")
    @classmethod
    def _narrow(cls, value: object) -> object:
        if value in ("int16", "uint16"):
            raise mistake("weights have at most 8 bits", fix="int8, or float: no provider gains from 16-bit weights")
        return value

    @field_validator("granularity", mode="before")
    @classmethod
    def _not_of_activations(cls, value: object) -> object:
        if value == "per_embedding" or (isinstance(value, Mapping) and "per_embedding_group" in value):
            fix = "per_tensor, per_channel, per_row, {per_group: N} or {per_output_group: N}"
            raise mistake("per_embedding and per_embedding_group are for activations, not for weights", fix=fix)
        return value


class Activations(Strict):
    """Quantizer of activations. Starts from uint8, per_tensor, asymmetric, minmax."""

    dtype: ActivationType | None = Field(
        default=None,
        description="Integer type, or float: stays as it is. At first uint8. 16 bits run as float on the CPU.",
    )
    granularity: ActivationGranularity | None = Field(
        default=None,
        description="What shares a scale. per_tensor (the default): everything. per_embedding: each dimension of "
        "the embedding (last axis). {per_embedding_group: K or sizes}: groups of dimensions.",
    )
    permute: Permute | None = Field(
        default=None,
        description="For per_embedding_group. none (the default): groups of neighbouring dimensions. range: dimensions "
        "sorted by their range first, so that the outliers share the last group.",
    )
    share: Share | None = Field(
        default=None,
        description="With permute: range. site (the default): each site has an order of its own. layer: one a layer, "
        "from its FFN output, as in the paper. model: one for the model.",
    )
    boundaries: Boundaries | None = Field(
        default=None,
        description="For per_embedding_group: K. equal (the default): K equal groups. error: cut where the expected "
        "squared error is least.",
    )
    lowering: Form | None = Field(
        default=None,
        description="The form in the graph. auto (the default): the best legal one by measured time and error. "
        "split: one MatMul a group. fold: scales move into the neighbouring weights. expand: an outlier dimension "
        "becomes several columns. reference: per-axis quantizers, an oracle that runs in float. float: no quantizer.",
    )
    columns: Positive | None = Field(
        default=None, description="For lowering: expand. Columns added at most; at first 16, or 64 on target openvino."
    )
    symmetric: bool | None = Field(default=None, description=f"{_SYMMETRIC} For activations false at first.")
    shift: bool | None = Field(
        default=None,
        description="With lowering: fold. Whether the middle of each dimension moves into the biases too (Outlier "
        "Suppression+, Wei et al. 2023). At first false.",
    )
    smooth: Fraction | None = Field(
        default=None,
        description="SmoothQuant's migration strength: how much of the dimensions' differences in range moves into "
        "the weights that read them. 0 (the default): nothing; 1: all. For outputs of a LayerNormalization, which "
        "takes the scales in; the residual branch gets them back.",
    )
    range: RangeMethod | None = Field(
        default=None,
        description="How calibration finds the range. minmax (the default): the extremes. running_minmax: an "
        "exponential average of the batches' extremes. mse: least mean squared error; mse_grid and golden_section: "
        "the same with both ends free, by a grid or by nested golden sections. percentile: all but the outermost "
        "0.01 %. entropy: least Kullback-Leibler divergence. cross_entropy: for logits, least cross-entropy.",
    )

    @field_validator("granularity", mode="before")
    @classmethod
    def _not_of_weights(cls, value: object) -> object:
        if value in ("per_channel", "per_row") or (
            isinstance(value, Mapping) and not {"per_group", "per_output_group"}.isdisjoint(value)
        ):
            fix = "per_tensor, per_embedding or {per_embedding_group: K}"
            what = "per_channel, per_row, per_group and per_output_group are for weights, not for activations"
            raise mistake(what, fix=fix)
        return value

    @model_validator(mode="after")
    def _permutes_groups(self) -> Activations:
        if self.permute == "range" and isinstance(self.granularity, str):
            fix = "remove permute, or use granularity: {per_embedding_group: K}"
            raise mistake("{name} has no groups to permute", key="permute", fix=fix, name=self.granularity)
        return self
