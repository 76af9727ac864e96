"""Fixtures shared by every test: no network, and tiny checkpoints made once a session."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

USUAL_TASKS = {"vit": "image-classification", "gpt2": "text-generation", "bart": "text2text-generation"}
"""Every other family: feature-extraction."""


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`checkpoint(family, task=None)`: directory of a tiny checkpoint, made at its first use."""
    from tests.zoo.checkpoints import make_checkpoint

    root = tmp_path_factory.mktemp("checkpoints")

    @cache
    def of(family: str, task: str | None = None) -> Path:
        task = task or USUAL_TASKS.get(family, "feature-extraction")
        return make_checkpoint(family, root / f"{family}-{task}", task=task)

    return of


@pytest.fixture(scope="session")
def export_result(checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """`export_result(family, task=None)`: the ExportResult of that checkpoint, exported at its first use."""
    from qonnx_pipe.stages.export import export_stage

    root = tmp_path_factory.mktemp("exported")

    @cache
    def of(family: str, task: str | None = None) -> Any:
        task = task or USUAL_TASKS.get(family, "feature-extraction")
        return export_stage(str(checkpoint(family, task)), task, root / f"{family}-{task}")

    return of


@pytest.fixture(scope="session")
def exported(export_result: Callable[..., Any]) -> Callable[..., Path]:
    """`exported(family, task=None)`: the simplified ONNX file that reads the user's input."""
    return lambda family, task=None: export_result(family, task).model


@pytest.fixture(scope="session")
def project(checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """`project(family="bert", task="text-classification")`: a Project with a finished run, made at its first use."""
    from qonnx_pipe import pipeline
    from qonnx_pipe.recipe import load
    from qonnx_pipe.store import Store
    from tests.zoo.projects import make_project

    root = tmp_path_factory.mktemp("projects")

    @cache
    def of(family: str = "bert", task: str = "text-classification") -> Any:
        made = make_project(root / f"{family}-{task}", checkpoint(family, task), task)
        pipeline.run(load(made.recipe), made.out, lambda _: None, store=Store(made.cache))
        return made

    return of
