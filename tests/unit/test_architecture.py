"""The house as drawn: the floors hold, core needs numpy and nothing else, modules and functions are small."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import qonnx_pipe

PACKAGE = Path(qonnx_pipe.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def test_the_floors_hold() -> None:
    linter = Path(sys.executable).parent / "lint-imports"
    done = subprocess.run([linter, "--no-cache"], cwd=PACKAGE.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", sorted((PACKAGE / "core").glob("*.py")), ids=name_of)
def test_core_imports_numpy_and_the_standard_library_alone(path: Path) -> None:
    imported = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module)
    roots = {name.partition(".")[0] for name in imported} - set(sys.stdlib_module_names)
    assert roots <= {"numpy", "qonnx_pipe"}
    inside = {name for name in imported if name.startswith("qonnx_pipe")}
    assert all(name.startswith(("qonnx_pipe.core", "qonnx_pipe.errors")) for name in inside)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_says_its_idea_and_is_small(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    assert ast.get_docstring(tree), "the first line says the module's one idea"
    assert len(text.splitlines()) <= 300
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            length = node.end_lineno - body[0].lineno + 1 if body else 0
            assert length <= 40, f"the body of {node.name} has {length} lines"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_no_module_is_a_drawer(path: Path) -> None:
    assert not {"utils", "common", "helpers", "misc", "manager"} & {path.stem, *path.relative_to(PACKAGE).parts}
