"""Training: how a recipe's model is fine-tuned, before it is exported or with its quantizers in place."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from qonnx_pipe.recipe.strict import Positive, Strict, mistake

Rate = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0)]
Ranges = Literal["learned", "fixed", "current"]
"""What decides the ranges of quantizers during a training."""

Precision = Literal["float32", "bfloat16"]
"""What the matrix products of a training step are computed from."""

Criterion = Literal["accuracy", "held_out_loss"]
"""What tells the best epoch: the task's metric on data.validation, or the loss there."""


class Training(Strict):
    """How the model is fine-tuned: AdamW, linear warm-up, linear decay to zero; the best epoch is kept."""

    epochs: Positive = Field(default=3, description="Times that every example of data.train is seen.")
    learning_rate: Rate = Field(default=5e-5, description="Highest learning rate, reached at the end of the warm-up.")
    warmup: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.1, description="Share of the steps in which the learning rate rises from zero."
    )
    weight_decay: Annotated[float, Field(ge=0)] = Field(
        default=0.01, description="AdamW's decoupled weight decay; biases and norms have none."
    )
    max_norm: Rate = Field(default=1.0, description="Norm at which the gradients of a step are cut.")
    seed: Annotated[int, Field(ge=0)] = Field(
        default=0, description="Seed of the new head, of dropout and of the order of the batches."
    )
    precision: Precision = Field(
        default="float32",
        description="What a step's matrix products are computed from; weights, sums and all that is judged stay "
        "float32. bfloat16 is two to three times as fast where the CPU has AMX or AVX512-BF16 or the GPU tensor cores, "
        "and changes nothing where there is none; what is learned then depends on the machine.",
    )

    @property
    def chosen_by(self) -> Criterion:
        """What tells the epoch that is kept."""
        return "accuracy"


class Loss(Strict):
    """What QAT minimises: a sum of losses, each times its weight; 0 leaves one out. The teacher is the float model."""

    labels: Share = Field(default=1.0, description="Cross-entropy with the labels of data.train.")
    logits: Share = Field(
        default=1.0, description="Kullback-Leibler divergence of the outputs from the float model's (distillation)."
    )
    temperature: Rate = Field(
        default=1.0, description="What the logits are divided by for that; the divergence is multiplied by its square."
    )
    hidden: Share = Field(
        default=0.0,
        description="Mean squared error of the embeddings' and of every layer's output (Zhang et al. 2020).",
    )
    attention: Share = Field(
        default=0.0, description="Mean squared error of every layer's attention scores (Zhang et al. 2020)."
    )

    @property
    def distils(self) -> bool:
        """Whether the float model teaches."""
        return self.logits + self.hidden + self.attention > 0

    @model_validator(mode="after")
    def _minimises_something(self) -> Self:
        if not (self.labels or self.distils):
            raise mistake("no loss is left", key="labels", fix="give labels, logits, hidden or attention a weight")
        return self


class QAT(Training):
    """How the quantized model is trained, from the float one on; every quantizer of the plan takes part."""

    learning_rate: Rate = Field(default=1e-4, description="Highest learning rate, reached at the end of the warm-up.")
    ranges: Ranges = Field(
        default="learned",
        description="learned (the default): scales and zero points too, LSQ and LSQ+. fixed: those of calibration and "
        "of the float weights. current: activations fixed, weights by the extremes of each step, as in Q-BERT.",
    )
    range_rate: Rate = Field(
        default=1e-3,
        description="Highest learning rate of the ranges: how much of itself a scale changes in a step, at most; of "
        "the codes, for a zero point.",
    )
    loss: Loss = Field(default=Loss(), description="What is minimised.")

    @property
    def chosen_by(self) -> Criterion:
        """Where the float model alone teaches, the distance from it: it is far less noisy than a count of answers."""
        return "accuracy" if self.loss.labels else "held_out_loss"
