"""The page tells every trial of a search, and nothing of a search where there was none."""

import json
from pathlib import Path

import pytest

from qonnx_pipe.core.files import write_json
from qonnx_pipe.core.tuning import Trial, Tuning
from qonnx_pipe.errors import DataError
from tests.unit.stages.test_report import HOSTILE, SMALL, Page, make_run, page_of

TRIALS = (
    Trial("placement: full", {"placement": "full"}, None, None, 4.8, False, "4.8 dB, below the limit of 26.5 dB"),
    Trial("matmul: integer", {"matmul": "integer"}, 1.25, (1.2, 1.31), 27.3, True, "faster"),
    Trial(HOSTILE, {}, None, None, None, False, HOSTILE),
)
TUNING = Tuning("cpu", (8, 128), 10, 27.5, 26.5, TRIALS)


def tuned(run: Path, tuning: object) -> None:
    """Leave a search in a run directory, as the pipeline does."""
    write_json(run / "tuning.json", tuning)
    manifest = json.loads((run / "manifest.json").read_bytes())
    manifest["artifacts"].append({**manifest["artifacts"][0], "kind": "tune:tuning.json", "path": "tuning.json"})
    write_json(run / "manifest.json", manifest)


def test_every_trial_is_told(tmp_path):
    run = make_run(tmp_path, SMALL)
    assert "Tuning" not in Page(page_of(run)).text
    tuned(run, TUNING.to_json())
    html = page_of(run)
    text = Page(html).text
    assert "3 changes were tried on cpu at 8 × 128 tokens" in text
    assert "1 kept: those that are faster beyond noise and leave at least 26.5 dB of the recipe's 27.5 dB" in text
    assert "placement: full – 4.8 dB no 4.8 dB, below the limit of 26.5 dB" in text
    assert "matmul: integer 1.25× 1.20× … 1.31× 27.3 dB kept faster" in text
    assert "<script>" not in html


def test_a_damaged_file_is_an_error(tmp_path):
    run = make_run(tmp_path, SMALL)
    tuned(run, {"version": 1})
    with pytest.raises(DataError, match="damaged"):
        page_of(run)


def test_a_search_of_an_earlier_run_is_not_told(tmp_path):
    run = make_run(tmp_path, SMALL)
    write_json(run / "tuning.json", TUNING.to_json())
    assert "Tuning" not in Page(page_of(run)).text
