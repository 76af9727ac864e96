"""The torch model's own outputs, which an exported file must reproduce."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from qonnx_pipe.core.examples import Array
from qonnx_pipe.errors import ModelError
from qonnx_pipe.source.checkpoint import Checkpoint
from qonnx_pipe.source.loading import load_model, quiet

if TYPE_CHECKING:
    import torch

ENCODER, DECODER = "encoder_model", "decoder_model"
REFERENCES = ("model", ENCODER, DECODER)
"""Stems of the ONNX files that torch can run on its own."""


def reference_outputs(
    checkpoint: Checkpoint,
    task: str,
    batches: Sequence[Mapping[str, Array]],
    *,
    part: str = "model",
    trust_remote_code: bool = False,
) -> list[dict[str, Array]]:
    """Outputs of the freshly loaded torch model in eval mode and float32, for each batch, under their ONNX names.

    Inputs bear the names of the ONNX file `part` (its stem: "model", "encoder_model" or "decoder_model"); an empty
    past is left out, since torch makes its own. Raises what `load_model` raises, and ModelError when the model cannot
    take the inputs.
    """
    model = load_model(checkpoint, task, trust_remote_code=trust_remote_code)
    with quiet():
        import torch

        with torch.no_grad():
            try:
                return [
                    _run(model, part, {name: torch.from_numpy(array) for name, array in batch.items()})
                    for batch in batches
                ]
            except (IndexError, RuntimeError) as error:
                what = f"torch cannot run the model on its tokenizer's text ({str(error).splitlines()[0]})"
                fix = "check that tokenizer and weights belong together"
                raise ModelError(what, where=str(checkpoint.directory), fix=fix) from error


def _run(model: Any, part: str, inputs: Mapping[str, torch.Tensor]) -> dict[str, Array]:
    import torch

    given = {name: tensor for name, tensor in inputs.items() if not name.startswith("past_key_values")}
    if part == ENCODER:
        outputs = model.get_encoder()(**given)
    elif part == DECODER:
        outputs = model(
            decoder_input_ids=given["input_ids"],
            encoder_outputs=(given["encoder_hidden_states"],),
            attention_mask=given["encoder_attention_mask"],
        )
    else:
        outputs = model(**given)
    return {name: value.numpy() for name, value in outputs.items() if isinstance(value, torch.Tensor)}
