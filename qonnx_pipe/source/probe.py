"""Inputs on which an exported file is compared with torch: real sentences of many lengths, or random images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from qonnx_pipe.core.examples import Array

SEED = 20_250_101
LONGEST = 64
"""Tokens: enough to meet every bucket of relative positions that matters, few enough to be quick."""

_SENTENCES = (
    "Yes.",
    "The small boat left the harbour before the storm came in.",
    "After the match the coach said that her team had played well, but that they would need more time on the pitch"
    " and fewer mistakes in front of goal if they wanted to win the cup this year.",
    "Prices rose by 2.3 % in March; analysts had expected less. The bank will meet again on Tuesday to decide whether"
    " it must act, and nobody who spoke to us wished to guess what it will do: food, rent and energy all cost more than"
    " they did a year ago, while wages have hardly moved, and that, one of them said, is not something to wait out.",
)

Tokens = npt.NDArray[np.int64]
Shape = Sequence[int | str | None]


def probe_batches(directory: Path, config: Mapping[str, object], inputs: Mapping[str, Shape]) -> list[dict[str, Array]]:
    """Two batches for a model with these inputs (name → shape): one example alone, and four padded to the longest.

    `directory` holds `tokenizer.json` where the model reads tokens. Padding stands on the right.
    """
    if "pixel_values" in inputs:
        return [_images(config, count) for count in (1, 4)]
    return [_texts(directory, config, inputs, texts) for texts in (_SENTENCES[1:2], _SENTENCES)]


def _images(config: Mapping[str, object], count: int) -> dict[str, Array]:
    size, channels = config["image_size"], int(str(config.get("num_channels", 3)))
    height, width = (int(str(side)) for side in (size if isinstance(size, list) else (size, size)))
    noise = np.random.default_rng(SEED).standard_normal((count, channels, height, width))
    return {"pixel_values": noise.astype(np.float32)}


def _texts(
    directory: Path, config: Mapping[str, object], inputs: Mapping[str, Shape], texts: Sequence[str]
) -> dict[str, Array]:
    ids, mask = _tokens(directory, config, texts)
    random = np.random.default_rng(SEED)
    batch: dict[str, Array] = {}
    for name, shape in inputs.items():
        if name == "input_ids":
            batch[name] = ids
        elif name in ("attention_mask", "encoder_attention_mask"):
            batch[name] = mask
        elif name == "token_type_ids":
            batch[name] = np.zeros_like(ids)
        elif name == "position_ids":
            batch[name] = np.maximum(np.cumsum(mask, axis=1) - 1, 0)
        elif name.startswith("past_key_values"):
            batch[name] = np.zeros([_size(entry, len(texts)) for entry in shape], np.float32)
        elif name == "encoder_hidden_states":
            batch[name] = random.standard_normal((*ids.shape, int(str(shape[-1])))).astype(np.float32)
    return batch


def _size(entry: int | str | None, batch: int) -> int:
    """A static size, the batch's, or 0: the past is empty."""
    if isinstance(entry, int):
        return entry
    return batch if entry is not None and "batch" in entry else 0


def _tokens(directory: Path, config: Mapping[str, object], texts: Sequence[str]) -> tuple[Tokens, Tokens]:
    """Token ids and attention mask, each [batch, longest]."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(LONGEST)
    rows = [encoding.ids for encoding in tokenizer.encode_batch(list(texts))]
    longest, padding = max(map(len, rows)), config.get("pad_token_id") or 0
    ids = np.full((len(rows), longest), padding, np.int64)
    mask = np.zeros((len(rows), longest), np.int64)
    for row, tokens in enumerate(rows):
        ids[row, : len(tokens)], mask[row, : len(tokens)] = tokens, 1
    return ids, mask
