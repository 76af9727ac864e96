"""Tokens: what a model's tokens are called, and which of them start and separate texts."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from qonnx_pipe.core.examples import Batch
from qonnx_pipe.data.batches import load_tokenizer

IDS, MASK = "input_ids", "attention_mask"

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Tokens:
    """Ids of the token before and of the token behind a text ([CLS], [SEP] in BERT), and the text of every id.

    For inputs without token ids, such as image patches, both are None and a token is called by its place.
    """

    start: int | None = None
    separator: int | None = None
    texts: dict[int, str] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, tokenizer: Path) -> Tokens:
        """Of a tokenizer.json: the first and the last token that it puts around a text; none for a missing file."""
        if not tokenizer.is_file():
            return cls()
        rule = load_tokenizer(tokenizer)
        rule.no_padding()
        rule.no_truncation()
        added = rule.encode("").ids
        texts = {number: text for text, number in rule.get_vocab(with_added_tokens=True).items()}
        return cls(added[0], added[-1], texts) if len(added) > 1 else cls(texts=texts)

    def name(self, key: int) -> str:
        """What a reader calls a token: its text, or its place."""
        return self.texts.get(key, f"place {key}")


def keys_of(batch: Batch, length: int) -> Ids:
    """For each of [batch, length] tokens its id, or its place where the model reads no ids."""
    ids = batch.inputs.get(IDS)
    if ids is not None and ids.shape[1] == length:
        return ids.astype(np.int64)
    return np.broadcast_to(np.arange(length), (len(batch), length))


def kept(batch: Batch, length: int) -> npt.NDArray[np.bool_]:
    """Which of [batch, length] tokens are no padding."""
    mask = batch.inputs.get(MASK)
    if mask is not None and mask.shape[1] == length:
        return mask.astype(bool)
    return np.ones((len(batch), length), bool)
