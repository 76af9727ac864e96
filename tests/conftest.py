"""Fixtures shared by every test: no network, and tiny checkpoints made once a session."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

DEFAULT_TASKS = {"vit": "image-classification", "gpt2": "text-generation", "bart": "text2text-generation"}


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`checkpoint(family, task=…)`: directory of a tiny checkpoint, made at its first use."""
    from tests.zoo.checkpoints import make_checkpoint

    root, made = tmp_path_factory.mktemp("checkpoints"), {}

    def of(family: str, task: str = "feature-extraction") -> Path:
        if (family, task) not in made:
            made[family, task] = make_checkpoint(family, root / f"{family}-{task}", task=task)
        return made[family, task]

    return of
