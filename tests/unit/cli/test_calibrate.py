"""`qpipe calibrate` keeps what its options ask for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from qonnx_pipe.cli import main
from qonnx_pipe.core.site import Role
from qonnx_pipe.stages.calibrate import read_table
from qonnx_pipe.stages.plan import sites_of
from tests.zoo.projects import Project

pytestmark = pytest.mark.export


@pytest.mark.parametrize("tokens", [0, 12])
def test_tokens_of_linear_inputs_and_logits(
    project: Callable[..., Project], tmp_path: Path, capsys: pytest.CaptureFixture[str], tokens: int
) -> None:
    made, out = project(), tmp_path / "table.npz"
    model = made.out / "float/model.onnx"
    words = ["calibrate", str(model), "--data", str(made.folder / "data.csv"), "--samples", "4", "--batch-size", "3"]
    assert main([*words, "--tokens", str(tokens), "--out", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["samples"] == 4
    kept = {site: seen.samples for site, seen in read_table(out).sites.items() if seen.samples is not None}
    wanted = [site for site in sites_of(model).activations if site.feeds or site.role is Role.HEAD]
    assert list(kept) == [site.id for site in wanted if tokens]
    for site in wanted:
        if tokens:
            rows = 4 if site.role in (Role.HEAD, Role.POOLER) else tokens
            assert kept[site.id].shape == (rows, site.width), site.id
