"""Examples become model inputs: token ids cut to length, padded within each batch as the tokenizer's files say."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from qonnx_pipe.core.examples import Array, Batch, Example, Examples, Form, Reading
from qonnx_pipe.errors import DataError, ModelError

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

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
    """Token ids and token types of one text or a window of it, unpadded, its label, and what of it is judged."""

    ids: Sequence[int]
    types: Sequence[int]
    label: str | None
    reading: Reading | None = None


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
    `pad_to`. Where the labels are tags, readings name the first token of each word; where they are answers,
    a longer text becomes several rows that overlap by a third. Arrays pass through by name, uncut. Raises ModelError
    for a missing or damaged tokenizer, DataError for a text without tokens and for inputs that the examples do not
    give.
    """
    if examples.arrays is not None:
        return _of_arrays(examples, examples.arrays, input_names, batch_size)
    if unknown := sorted(set(input_names) - TEXT_INPUTS):
        what = f"the model wants {', '.join(unknown)}, which no tokenizer makes"
        raise DataError(what, where=examples.source, fix="give its inputs ready in an .npz file")
    path = tokenizer / "tokenizer.json" if tokenizer.is_dir() else tokenizer
    rule = load_tokenizer(path)
    padding = _padding(rule, path)
    encoded = _encode(rule, examples, min(max_length, pad_to or max_length))
    if sort:
        encoded.sort(key=lambda text: len(text.ids))
    groups = (encoded[start : start + batch_size] for start in range(0, len(encoded), batch_size))
    return [_batch(group, input_names, padding, pad_to) for group in groups]


def _encode(rule: Tokenizer, examples: Examples, length: int) -> list[Encoded]:
    """The rows of all examples, in their order."""
    items, source, form = examples.items, examples.source, examples.form
    _limit(rule, items, length, form, source)
    encoded: list[Encoded] = []
    for start in range(0, len(items), 64):  # the library keeps offsets and strings: not of all texts at once
        group = items[start : start + 64]
        given = [example.text if example.pair is None else (example.text, example.pair) for example in group]
        for index, (example, found) in enumerate(zip(group, rule.encode_batch(given), strict=True), start):
            windows = [found, *found.overflowing] if form == "answers" else [found]
            rows = [_read(window, example, index, form) for window in windows]
            if any(not _has_tokens(window) for window in windows):
                raise _no_tokens(example, source)
            encoded += rows
    return encoded


def _limit(rule: Tokenizer, items: Sequence[Example], length: int, form: Form, source: str) -> None:
    """Cut at `length` tokens, from the side that the tokenizer says; of a pair with answers the second text alone."""
    side = (rule.truncation or {}).get("direction", "right")
    rule.no_padding()
    rule.no_truncation()
    others = rule.num_special_tokens_to_add(is_pair=any(example.pair is not None for example in items))
    if form == "answers":
        asked = rule.encode_batch([example.text for example in items], add_special_tokens=False)
        others += max((len(found.ids) for found in asked), default=0)
    if (room := length - others) <= 0:
        what = f"a max_length of {length} leaves no room for a text beside {others} other tokens"
        raise DataError(what, where=source, fix=f"allow at least {others + 1}")
    if form == "answers":
        rule.enable_truncation(length, stride=room // 3, strategy="only_second")
    else:
        rule.enable_truncation(length, direction=side)


def _read(found: Encoding, example: Example, index: int, form: Form) -> Encoded:
    """One row; with labels about tokens, where these stand in it."""
    reading = None
    if form == "tags":
        reading = _first_tokens(found, example.text, index)
    elif form == "answers":
        kept = [i for i, side in enumerate(found.sequence_ids) if side == 1]
        spans = [found.offsets[i] for i in kept]
        reading = Reading(index, example.pair or "", np.array(kept, np.int64), _pairs(spans))
    return Encoded(found.ids, found.type_ids, example.label, reading)


def _first_tokens(found: Encoding, text: str, index: int) -> Reading:
    """The first token of each word that has one; offsets of some tokenizers take in the space in front."""
    places, spans, end = [], [], -1
    for i, ((first, stop), side) in enumerate(zip(found.offsets, found.sequence_ids, strict=True)):
        begin = stop - len(text[first:stop].lstrip(" "))
        if side == 0 and begin < stop and begin >= end:
            start, end = text.rfind(" ", 0, begin) + 1, (text.find(" ", begin) + len(text) + 1) % (len(text) + 1)
            places.append(i)
            spans.append((start, end))
    return Reading(index, text, np.array(places, np.int64), _pairs(spans))


def _pairs(spans: Sequence[tuple[int, int]]) -> npt.NDArray[np.int64]:
    return np.array(spans, np.int64).reshape(-1, 2)


def _has_tokens(found: Encoding) -> bool:
    """Whether more than special tokens stand there."""
    return not all(found.special_tokens_mask)


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


def _no_tokens(example: Example, source: str) -> DataError:
    what = f"the tokenizer finds no token in the text {example.text[:40]!r}"
    return DataError(what, where=source, fix="remove the text, or use the model's own tokenizer")


def _batch(group: Sequence[Encoded], names: Sequence[str], padding: Padding, pad_to: int | None) -> Batch:
    shape = len(group), pad_to or max(len(text.ids) for text in group)
    ids, types = np.full(shape, padding.token, np.int64), np.full(shape, padding.token_type, np.int64)
    mask = np.zeros(shape, np.int64)
    readings = []
    for row, text in enumerate(group):
        n = len(text.ids)
        begin = shape[1] - n if padding.left else 0
        place = np.s_[row, begin : begin + n]
        ids[place], types[place], mask[place] = text.ids, text.types, 1
        if text.reading is not None:
            readings.append(replace(text.reading, positions=text.reading.positions + begin))
    made: dict[str, Array] = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
    return Batch({name: made[name] for name in names}, tuple(text.label for text in group), tuple(readings))


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
