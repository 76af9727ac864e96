"""Examples become model inputs: token ids cut to length, padded within each batch as the tokenizer's files say."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qonnx_pipe.core.examples import Array, Batch, Example, Examples
from qonnx_pipe.errors import DataError, ModelError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TEXT_INPUTS = frozenset({"input_ids", "attention_mask", "token_type_ids"})
"""The inputs that a tokenizer makes."""


@dataclass(frozen=True)
class Padding:
    """How short texts are filled up: with which token and type, on which side."""

    token: int
    token_type: int
    left: bool


@dataclass(frozen=True)
class Encoded:
    """Token ids and token types of one text, unpadded, and its label."""

    ids: Sequence[int]
    types: Sequence[int]
    label: str | None


def batches(
    examples: Examples,
    tokenizer: Path,
    input_names: Sequence[str],
    *,
    batch_size: int,
    max_length: int,
    pad_to: int | None = None,
    sort: bool = False,
) -> list[Batch]:
    """Batches in the examples' order, or by ascending number of tokens with `sort` (less padding).

    `tokenizer` is a tokenizer.json or its folder; `input_names` are the model's inputs, and each batch has exactly
    these. Texts become int64 [batch, tokens] of at most `max_length` tokens, padded to the longest of the batch or to
    `pad_to`. Arrays pass through by name, uncut. Raises ModelError for a missing or damaged tokenizer, DataError for a
    text without tokens and for inputs that the examples do not give.
    """
    if examples.arrays is not None:
        return _of_arrays(examples, examples.arrays, input_names, batch_size)
    if unknown := sorted(set(input_names) - TEXT_INPUTS):
        what = f"the model wants {', '.join(unknown)}, which no tokenizer makes"
        raise DataError(what, where=examples.source, fix="give its inputs ready in an .npz file")
    path = tokenizer / "tokenizer.json" if tokenizer.is_dir() else tokenizer
    rule = load_tokenizer(path)
    padding = _padding(rule, path)
    encoded = _encode(rule, examples, min(max_length, pad_to or max_length), path)
    if sort:
        encoded.sort(key=lambda text: len(text.ids))
    groups = (encoded[start : start + batch_size] for start in range(0, len(encoded), batch_size))
    return [_batch(group, input_names, padding, pad_to) for group in groups]


def load_tokenizer(path: Path) -> Tokenizer:
    """A tokenizer.json; ModelError when it is missing or damaged."""
    from tokenizers import Tokenizer

    fix = "export the model again, or copy tokenizer.json from its checkpoint"
    if not path.is_file():
        raise ModelError("no such tokenizer", where=str(path), fix=fix)
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:
        if type(error) is not Exception:  # the library raises bare Exceptions; anything else is not about the file
            raise
        raise ModelError(f"not a readable tokenizer ({error})", where=str(path), fix=fix) from error


def _encode(rule: Tokenizer, examples: Examples, length: int, path: Path) -> list[Encoded]:
    added = rule.num_special_tokens_to_add(is_pair=False)
    if length <= added:
        what = f"a max_length of {length} leaves no room beside {added} special tokens"
        raise DataError(what, where=str(path), fix=f"allow at least {added + 1}")
    rule.no_padding()
    rule.enable_truncation(length, direction=(rule.truncation or {}).get("direction", "right"))
    encoded: list[Encoded] = []
    for start in range(0, len(examples.items), 64):  # the library keeps offsets and strings: not of all texts at once
        group = examples.items[start : start + 64]
        for example, found in zip(group, rule.encode_batch([example.text for example in group]), strict=True):
            if len(found.ids) <= added:
                raise _no_tokens(example, examples.source)
            encoded.append(Encoded(found.ids, found.type_ids, example.label))
    return encoded


def _no_tokens(example: Example, source: str) -> DataError:
    what = f"the tokenizer finds no token in the text {example.text[:40]!r}"
    return DataError(what, where=source, fix="remove the text, or use the model's own tokenizer")


def _batch(group: Sequence[Encoded], names: Sequence[str], padding: Padding, pad_to: int | None) -> Batch:
    shape = len(group), pad_to or max(len(text.ids) for text in group)
    ids, types = np.full(shape, padding.token, np.int64), np.full(shape, padding.token_type, np.int64)
    mask = np.zeros(shape, np.int64)
    for row, text in enumerate(group):
        n = len(text.ids)
        place = np.s_[row, shape[1] - n :] if padding.left else np.s_[row, :n]
        ids[place], types[place], mask[place] = text.ids, text.types, 1
    made: dict[str, Array] = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
    return Batch({name: made[name] for name in names}, tuple(text.label for text in group))


def _padding(rule: Tokenizer, path: Path) -> Padding:
    """From tokenizer.json; else the pad token that the files beside it name; else the end-of-text token (GPT-2)."""
    if rule.padding is not None:
        stated = rule.padding
        return Padding(stated["pad_id"], stated["pad_type_id"], stated["direction"] == "left")
    names = {**_settings(path, "tokenizer_config.json"), **_settings(path, "special_tokens_map.json")}
    config = _settings(path, "config.json")
    candidates = (
        _token_id(rule, names.get("pad_token")),
        config.get("pad_token_id"),
        _token_id(rule, names.get("eos_token")),
        config.get("eos_token_id"),
    )
    token = next((found for found in candidates if isinstance(found, int)), None)
    if token is None:
        fix = "write pad_token_id into config.json beside it"
        raise ModelError("the tokenizer names no padding token", where=str(path), fix=fix)
    return Padding(token, 0, names.get("padding_side") == "left")


def _token_id(rule: Tokenizer, named: object) -> int | None:
    content = named.get("content") if isinstance(named, Mapping) else named
    return rule.token_to_id(content) if isinstance(content, str) else None


def _settings(path: Path, name: str) -> Mapping[str, Any]:
    """The mapping in a JSON file beside the tokenizer; {} when there is no such file."""
    place = path.with_name(name)
    try:
        found = json.loads(place.read_bytes()) if place.is_file() else {}
    except ValueError as error:
        raise ModelError(f"not JSON ({error})", where=str(place), fix="copy it from the checkpoint again") from error
    return found if isinstance(found, Mapping) else {}


def _of_arrays(examples: Examples, arrays: Mapping[str, Array], names: Sequence[str], size: int) -> list[Batch]:
    if missing := [name for name in names if name not in arrays]:
        what = f"no array for the model's input {', '.join(missing)}"
        raise DataError(what, where=examples.source, fix=f"the file holds {', '.join(arrays)}")
    return [
        Batch({name: arrays[name][start : start + size] for name in names}, examples.labels[start : start + size])
        for start in range(0, len(examples), size)
    ]
