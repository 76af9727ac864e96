"""What messages and documents tell people to type is what the commands take."""

import re
from pathlib import Path

import pytest

from qonnx_pipe.cli.run import command
from qonnx_pipe.core.stages import STAGES

ROOT = Path(__file__).parents[2]
TEXTS = [*(ROOT / "qonnx_pipe").rglob("*.py"), *ROOT.glob("*.md"), *(ROOT / "recipes").rglob("*")]
TOLD = sorted(
    {found for text in TEXTS if text.is_file() for found in re.findall(r"--(?:from|until) [a-z]+", text.read_text())}
)


def test_a_message_names_a_stage() -> None:
    assert "--from timing" in TOLD


@pytest.mark.parametrize("words", sorted({*TOLD, *(f"--from {stage}" for stage in STAGES)}))
def test_every_stage_that_is_named_is_one_to_begin_or_end_with(words: str) -> None:
    context = command.make_context("run", ["quickstart", *words.split()])
    assert words.split()[1] in (context.params["first"], context.params["last"])
