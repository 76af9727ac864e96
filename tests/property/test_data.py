"""Laws of the data room: a new document moves no other, and an example's tokens do not depend on its neighbours."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers

from qonnx_pipe.core.examples import Example, Examples
from qonnx_pipe.data import batches
from qonnx_pipe.data.selection import digest, select

KEYS = st.lists(st.binary(min_size=1, max_size=8), unique=True, min_size=1, max_size=40)
SPLITS = st.sampled_from(["train", "validation", "test", "all"])


@given(KEYS, st.binary(min_size=9, max_size=9), SPLITS)
def test_one_more_document_moves_no_other(keys: list[bytes], new: bytes, split: str) -> None:
    before = {keys[index] for index in select(keys, split, None, 0)}
    more = [new, *keys]
    assert {more[index] for index in select(more, split, None, 0)} - {new} == before


@given(KEYS, st.binary(min_size=9, max_size=9), st.integers(1, 20), st.integers(0, 3))
def test_one_more_document_drives_out_one_sample_at_most(keys: list[bytes], new: bytes, n: int, seed: int) -> None:
    before = [keys[index] for index in select(keys, "all", n, seed)]
    more = [*keys, new]
    after = [more[index] for index in select(more, "all", n, seed)]
    assert len(after) == min(n, len(more))
    assert len(set(before) - set(after)) <= 1


@given(KEYS, st.randoms(use_true_random=False), st.integers(1, 20))
def test_samples_do_not_depend_on_the_order(keys: list[bytes], random: object, n: int) -> None:
    shuffled = list(keys)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    one = [keys[index] for index in select(keys, "all", n, 0)]
    assert one == [shuffled[index] for index in select(shuffled, "all", n, 0)]


PARTS = st.lists(st.one_of(st.none(), st.binary(max_size=4)), max_size=6)


@given(PARTS, PARTS)
def test_digest_is_injective(one: list[bytes | None], other: list[bytes | None]) -> None:
    assert (digest(one) == digest(other)) == (one == other)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rule = Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1, "a": 2, "b": 3, "c": 4}, unk_token="[UNK]"))
    rule.pre_tokenizer = pre_tokenizers.Whitespace()
    rule.enable_padding()
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    rule.save(str(path))
    return path


TEXTS = st.lists(st.lists(st.sampled_from("abcd"), min_size=1, max_size=12).map(" ".join), min_size=1, max_size=12)


@settings(deadline=None)  # reading a tokenizer takes as long as the disk wants
@given(texts=TEXTS, size=st.integers(1, 5), length=st.integers(1, 10), sort=st.booleans())
def test_tokens_do_not_depend_on_the_batch(
    tokenizer: Path, texts: list[str], size: int, length: int, sort: bool
) -> None:
    items = tuple(Example(text, text) for text in texts)
    names = ("input_ids", "attention_mask")
    found = batches(Examples("", "", items), tokenizer, names, batch_size=size, max_length=length, sort=sort)
    codes = {"a": 2, "b": 3, "c": 4, "d": 1}
    seen = []
    for batch in found:
        assert len(batch) <= size
        rows = zip(batch.inputs["input_ids"], batch.inputs["attention_mask"], batch.labels, strict=True)
        for ids, mask, text in rows:
            assert ids[mask == 1].tolist() == [codes[word] for word in (text or "").split()][:length]
            assert (ids[mask == 0] == 0).all()
            seen.append(text)
    assert sorted(seen) == sorted(texts)
    if not sort:
        assert seen == texts
