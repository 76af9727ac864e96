"""Training: how a recipe's model is fine-tuned before anything is exported."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from qonnx_pipe.recipe.strict import Positive, Strict

Rate = Annotated[float, Field(gt=0)]


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
