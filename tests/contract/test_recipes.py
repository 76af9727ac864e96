"""Every recipe that comes with qpipe: loads, explains itself, is found by its name."""

import importlib
import shlex
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from qonnx_pipe.recipe import load
from qonnx_pipe.recipe.library import find, folder, listed

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))


def test_the_quickstart_is_among_them() -> None:
    assert "quickstart" in [path.stem for path in RECIPES]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_packaged_recipe(path: Path) -> None:
    recipe = load(path)
    assert recipe.name == path.stem
    assert path.read_text(encoding="utf-8").startswith("# ")
    assert recipe.train or recipe.validation.gates.limits
    assert find(path.stem).samefile(path)


def test_all_are_listed_with_a_description() -> None:
    assert [path.name for path, _, _ in listed()] == [path.name for path in RECIPES]
    assert all(len(description) > 20 for _, _, description in listed())


def test_the_workflow_uses_options_that_there_are() -> None:
    workflow = YAML(typ="safe").load(RECIPES[0].parent / "ci/quantize.yml")
    steps = [step.get("run", "") for step in workflow["jobs"]["quantize"]["steps"]]
    (words,) = [shlex.split(line) for step in steps for line in step.splitlines() if line.startswith("qpipe")]
    command = importlib.import_module(f"qonnx_pipe.cli.{words[1]}").command
    known = {name for parameter in command.params for name in parameter.opts}
    asked = {word for word in words if word.startswith("--")} | {"--baseline"}
    assert asked <= known
    assert {"--junit", "--markdown"} <= asked


def test_an_existing_path_comes_before_a_packaged_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find("quickstart") == folder() / "quickstart.yaml"
    Path("quickstart").touch()
    assert find("quickstart") == Path("quickstart")
    assert find("./none.yaml") == Path("none.yaml")
