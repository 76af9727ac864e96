"""The `quantize` part of a recipe: defaults for all sites, then rules, later ones winning key by key."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from qonnx_pipe.core.plan import AttentionForm, GatherForm, MatMulForm, Placement, is_placed
from qonnx_pipe.core.site import Role, Site
from qonnx_pipe.core.spec import Rounding
from qonnx_pipe.recipe.budget import Budget
from qonnx_pipe.recipe.settings import Activations, Weights
from qonnx_pipe.recipe.strict import Fraction, Positive, Strict, as_tuple, mistake
from qonnx_pipe.recipe.training import QAT

STATIC_SHAPE = (1, 128)
"""Batch and sequence for a target that needs them, where the recipe says nothing."""

_SPAN = re.compile(r"(-?\d+)-(-?\d+)")


def span(text: str) -> tuple[int, int]:
    """First and last layer of "0-3"; ValueError for anything else."""
    found = _SPAN.fullmatch(text.replace(" ", ""))
    if found is None:
        raise ValueError(f"{text!r} is no span of layers")
    return int(found[1]), int(found[2])


def _layer(value: object) -> object:
    if isinstance(value, str):
        try:
            span(value)
        except ValueError:
            fix = 'a number (negative ones count from the end), "0-3", or a list of these'
            raise mistake("{value} names no layers", fix=fix, value=repr(value)) from None
    elif not isinstance(value, int) or isinstance(value, bool):
        raise mistake("a layer is a number or a span, not {value}", fix='for example 3, -1 or "0-3"', value=repr(value))
    return value


RoleName = Annotated[Role, Field(strict=False)]
LayerName = Annotated[int | str, BeforeValidator(_layer, json_schema_input_type=int | str)]
Pattern = Annotated[str, Field(min_length=1)]


class Match(Strict):
    """Which sites a rule is about: those that agree with every key given. At least one key."""

    role: Annotated[
        tuple[RoleName, ...], BeforeValidator(as_tuple, json_schema_input_type=RoleName | tuple[RoleName, ...])
    ] = Field(
        default=(),
        description="A role or a list of roles. For `weights` a role also means the MatMul weight that computes it: "
        "attention.query is the query projection; `weight` is every MatMul weight.",
    )
    layer: Annotated[
        tuple[LayerName, ...], BeforeValidator(as_tuple, json_schema_input_type=LayerName | tuple[LayerName, ...])
    ] = Field(
        default=(),
        description='Encoder layers from 0: a number (negative: from the end), a span "0-3" with both ends, or a list.',
    )
    node: Annotated[
        tuple[Pattern, ...], BeforeValidator(as_tuple, json_schema_input_type=Pattern | tuple[Pattern, ...])
    ] = Field(
        default=(),
        description="A pattern or a list of patterns (* and ?) for a site's id, its tensor, or a MatMul that reads it.",
    )

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not (self.role or self.layer or self.node):
            raise mistake("an empty match", fix="give role, layer or node; for all sites change the defaults above")
        return self


class Rule(Strict):
    """What some sites get instead of the defaults. A rule that matches nothing is an error."""

    match: Match = Field(description="Which sites the rule is about.")
    weights: Weights | None = Field(
        default=None, description="For the matched MatMul weights and embedding tables: the keys that change."
    )
    activations: Activations | None = Field(
        default=None, description="For the matched activations: the keys that change."
    )
    stays_float: bool = Field(
        default=False,
        alias="float",
        description="true: the matched sites, of whatever kind, stay float. Alone in its rule.",
    )

    @model_validator(mode="after")
    def _does_something(self) -> Self:
        changes = [name for name in ("weights", "activations") if getattr(self, name) is not None]
        if self.stays_float and changes:
            raise mistake("float: true leaves nothing for {other}", key="float", fix="remove one", other=changes[0])
        if not (self.stays_float or changes):
            raise mistake("a rule that changes nothing", fix="add weights, activations or float: true")
        return self


class AdaRound(Strict):
    """How rounding: adaround learns; the settings of Nagel et al. 2020, which Bondarenko et al. 2021 took over."""

    tokens: Positive = Field(
        default=8192, description="Tokens of the calibration examples that each layer's output is compared on."
    )
    iterations: Positive = Field(
        default=10_000, description="Steps of Adam for each weight; 1000 come close, in a tenth of the time."
    )
    learning_rate: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="Adam's learning rate; left out, 10 / iterations: the papers' 0.001 at their 10,000."
    )
    regularisation: Annotated[float, Field(ge=0)] = Field(
        default=0.01, description="Weight of the term that drives every soft value to 0 or 1 (lambda)."
    )
    warm_up: Fraction = Field(default=0.2, description="Share of the steps that go by without that term.")
    relative: bool = Field(
        default=True,
        description="Whether each token's error counts relative to its output's power, so that the few tokens with "
        "outliers do not decide alone. false: as in the papers.",
    )


class Gptq(Strict):
    """How rounding: gptq goes; the settings of Frantar et al. 2022, but for `relative`."""

    tokens: Positive = Field(
        default=8192,
        description="Tokens of the calibration examples that each layer's output is compared on, 64 of an example at "
        "most. Fewer than some times a layer's inputs, and the codes suit these tokens alone.",
    )
    damp: Annotated[float, Field(ge=0)] = Field(
        default=0.01, description="What is added to the Hessian's diagonal, in units of the diagonal's mean."
    )
    act_order: bool = Field(
        default=True,
        description="Whether inputs are rounded by falling power, not as they come. Groups stay as they are.",
    )
    relative: bool = Field(default=True, description="As for adaround. false: as in the paper.")


class Tune(Strict):
    """How faster settings are searched on the target: `qpipe run --tune` is the same as `tune: {}`."""

    shape: tuple[Positive, Positive] = Field(default=(8, 128), description="[batch, sequence] that files are timed at.")
    rounds: Annotated[int, Field(ge=5)] = Field(
        default=10, description="Rounds of two files in turn, each one a pair for the interval of the speed-up."
    )
    loss_db: Annotated[float, Field(ge=0)] = Field(
        default=1.0,
        description="Most that all changes together may take from the outputs' SQNR against float, on the calibration "
        "examples.",
    )


class Quantize(Strict):
    """What becomes integer, and how."""

    target: Literal["cpu", "openvino", "qnn", "tensorrt"] = Field(
        default="cpu", description="Where the model will run; decides which forms in the graph are legal and preferred."
    )
    placement: Placement | None = Field(
        default=None,
        description="Which activations are quantized. matmul_inputs (the default, fastest on the CPU): inputs of "
        "weight MatMuls; sums, norms and residuals stay float. all_matmul_inputs (the default on target openvino): "
        "those of attention's MatMuls too, attention.query, key, probabilities and value; on target openvino query and "
        "key alone, as symmetric int8, where no rule says otherwise. full: every site of Bondarenko et al. 2021.",
    )
    shape: tuple[Positive, Positive] | None = Field(
        default=None,
        description="[batch, sequence] of a model that takes no others. For target qnn, where it is [1, 128] at first.",
    )
    matmul: MatMulForm | None = Field(
        default=None,
        description="How a weight MatMul is written. integer (the default on target cpu): ONNX Runtime's "
        "MatMulIntegerToFloat with the bias inside, fastest there. qdq (the default, and the only form, elsewhere): "
        "MatMul between QuantizeLinear and DequantizeLinear, standard ONNX.",
    )
    gather: GatherForm | None = Field(
        default=None,
        description="How rows of an embedding table are read. nbits (the default beside matmul: integer): where it "
        "has 2 or 4 bits and a scale a row, or a block of a row, by ONNX Runtime's GatherBlockQuantized: codes stay "
        "packed in memory. dq (for other tables, and the default, and the only form, elsewhere): Gather and "
        "arithmetic, standard ONNX, on codes that take a byte each once a session has opened the file.",
    )
    attention: AttentionForm | None = Field(
        default=None,
        description="How softmax attention is written. fused (the default beside matmul: integer): ONNX's Attention, "
        "which raises the file to opset 23. plain (the default, and the only form, elsewhere): as in the float model.",
    )
    bias_correction: bool = Field(
        default=False,
        description="Move what quantized weights shift the mean of each output by into the bias (Nagel et al. 2019); "
        "not where gptq or adaround learned the weight: its codes already aim at the float model's outputs.",
    )
    equalise: bool = Field(
        default=False,
        description="Even out the channels between two linear layers with nothing nonlinear between them: value to "
        "attention output (Nagel et al. 2019).",
    )
    weights: Weights = Field(default=Weights(), description="Default for MatMul weights.")
    activations: Activations = Field(default=Activations(), description="Default for activations.")
    embeddings: Weights = Field(
        default=Weights(), description="Default for embedding tables; not taken from `weights`."
    )
    adaround: AdaRound = Field(
        default=AdaRound(), description="How the rounding of weights with rounding: adaround is learned."
    )
    gptq: Gptq = Field(default=Gptq(), description="How weights with rounding: gptq get their codes.")
    budget: Budget | None = Field(
        default=None,
        description="Share bits out among the weights by their sensitivity; left out: as `weights` and rules say.",
    )
    qat: QAT | None = Field(
        default=None,
        description="Train the model with its quantizers in place, on data.train; left out: nothing is trained.",
    )
    tune: Tune | None = Field(
        default=None,
        description="Search settings that are faster on the target, beyond noise; left out: nothing is searched.",
    )
    rules: tuple[Rule, ...] = Field(default=(), description="Exceptions, in order: later rules win, key by key.")

    @model_validator(mode="after")
    def _runs_there(self) -> Self:
        for key, own, standard in (("matmul", "integer", "qdq"), ("gather", "nbits", "dq")):
            if getattr(self, key) == own and self.target != "cpu":
                fix = f"leave quantize.{key} out, or write {standard}"
                raise mistake("target {target} has no such operator", key=key, fix=fix, target=self.target)
        if self.attention == "fused" and self.matmul_form != "integer":
            fix = "leave quantize.attention out, or write matmul: integer"
            raise mistake("standard MatMuls keep standard attention", key="attention", fix=fix)
        if self.shape is not None and self.target != "qnn":
            fix = "leave quantize.shape out: the model takes any"
            raise mistake("target {target} needs no static shape", key="shape", fix=fix, target=self.target)
        if self.target == "qnn" and self.budget is not None and (self.budget.latency or self.budget.leaves_float):
            fix = "limit bits or size, without float among the choices"
            raise mistake("target qnn takes no float weights, and its simulator no time", key="budget", fix=fix)
        if self.target == "qnn" and self.equalise:
            raise mistake("target qnn has no equalise yet", key="equalise", fix="leave quantize.equalise out")
        return self

    @model_validator(mode="after")
    def _can_be_trained(self) -> Self:
        if self.qat is None:
            return self
        decided = {"bias_correction": self.bias_correction, "equalise": self.equalise}
        for key, on in decided.items():
            if on:
                fix = f"leave quantize.{key} out: the training does better what it does"
                raise mistake("not together with qat", key=key, fix=fix)
        if self.target == "qnn":
            raise mistake("target qnn has no qat yet", key="qat", fix="leave quantize.qat out")
        return self

    @property
    def static_shape(self) -> tuple[int, int] | None:
        """Batch and sequence of a target that takes no other, else None."""
        return (self.shape or STATIC_SHAPE) if self.target == "qnn" else None

    @property
    def chosen_placement(self) -> Placement:
        """Which activations are quantized on the target."""
        return self.placement or ("all_matmul_inputs" if self.target == "openvino" else "matmul_inputs")

    @property
    def quantizes_all(self) -> bool:
        """Whether sites count that no weight MatMul reads; an NPU takes no float tensor."""
        return self.chosen_placement == "full" or self.target == "qnn"

    def places(self, site: Site) -> bool:
        """Whether an activation gets a quantizer, where its dtype is an integer."""
        return self.quantizes_all or is_placed(self.chosen_placement, site)

    @property
    def matmul_form(self) -> MatMulForm:
        """How weight MatMuls are written on the target."""
        return self.matmul or ("integer" if self.target == "cpu" else "qdq")

    @property
    def gather_form(self) -> GatherForm:
        """How tables are read on the target, where they allow it."""
        return self.gather or ("nbits" if self.matmul_form == "integer" else "dq")

    @property
    def attention_form(self) -> AttentionForm:
        """How attention is written on the target."""
        return self.attention or "fused" if self.matmul_form == "integer" else "plain"

    @property
    def roundings(self) -> frozenset[Rounding]:
        """What weights may be rounded by, besides the nearest."""
        asked = [self.weights, *(rule.weights for rule in self.rules)]
        found = {weights.rounding for weights in asked if weights is not None and weights.rounding is not None}
        return frozenset(found - {"nearest"})
