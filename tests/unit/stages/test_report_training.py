"""The page draws how a QAT went, epoch by epoch, and nothing where none was trained."""

import json
import re
from pathlib import Path

import pytest

from qonnx_pipe.core.files import write_json
from qonnx_pipe.errors import DataError
from tests.unit.stages.test_report import HOSTILE, SMALL, Page, make_run, page_of

METRIC = {"name": "accuracy", "unit": "fraction", "value": 0.84, "n": 50, "interval": [0.7, 0.9]}
FACTS = {
    "version": 1,
    "untrained": {"accuracy": 0.5, "held_out_loss": 0.75},
    "epochs": [
        {"loss": 0.9, "accuracy": 0.86, "held_out_loss": 0.5},
        {"loss": 0.4, "accuracy": 0.84, "held_out_loss": 0.25},
    ],
    "chosen": {"epoch": 2, "by": "held_out_loss"},
    "accuracy": {"validation": METRIC},
}


def trained(run: Path, facts: object) -> None:
    """Leave a training in a run directory, as the pipeline does."""
    write_json(run / "qat.json", facts)
    manifest = json.loads((run / "manifest.json").read_bytes())
    manifest["artifacts"].append({**manifest["artifacts"][0], "kind": "qat:qat.json", "path": "qat.json"})
    write_json(run / "manifest.json", manifest)


def test_every_epoch_is_told(tmp_path):
    run = make_run(tmp_path, SMALL)
    before = page_of(run)
    assert "Training" not in Page(before).text
    trained(run, FACTS)
    html = page_of(run)
    page = Page(html)
    assert "epoch 2 , the best by its loss on held-out data" in page.text
    assert page.rows("accuracy")[-3:] == [
        ["before", "–", "0.750", "50.00 %", ""],
        ["1", "0.900", "0.500", "86.00 %", ""],
        ["2", "0.400", "0.250", "84.00 %", "kept"],
    ]
    assert html.count(">2, kept<") == 2, "two drawings"
    assert html.count("<polyline") - before.count("<polyline") == 3, "two losses, one metric"


def test_without_labels_there_is_no_metric(tmp_path):
    run = make_run(tmp_path, SMALL)
    bare = [{**epoch, "accuracy": None} for epoch in FACTS["epochs"]]
    untrained = {**FACTS["untrained"], "accuracy": None}
    trained(run, {**FACTS, "epochs": bare, "untrained": untrained, "accuracy": {"validation": None}})
    html = page_of(run)
    assert html.count(">2, kept<") == 1
    assert Page(html).rows("accuracy")[-1] == ["2", "0.400", "0.250", "kept"]


def test_the_best_by_the_metric(tmp_path):
    run = make_run(tmp_path, SMALL)
    trained(run, {**FACTS, "chosen": {"epoch": 1, "by": "accuracy"}})
    assert "epoch 1 , the best by its accuracy on held-out data" in Page(page_of(run)).text


def test_no_epoch_is_better_than_the_start(tmp_path):
    run = make_run(tmp_path, SMALL)
    trained(run, {**FACTS, "chosen": {"epoch": 0, "by": "held_out_loss"}})
    html = page_of(run)
    assert "it kept the weights and ranges from before , the best by its loss on held-out data" in Page(html).text
    assert Page(html).rows("accuracy")[-3] == ["before", "–", "0.750", "50.00 %", "kept"]
    assert ", kept<" not in html


def test_one_epoch_is_no_curve(tmp_path):
    run = make_run(tmp_path, SMALL)
    before = page_of(run)
    trained(run, {**FACTS, "epochs": FACTS["epochs"][:1], "chosen": {"epoch": 1, "by": "accuracy"}})
    html = page_of(run)
    assert html.count("<polyline") == before.count("<polyline")
    assert Page(html).rows("accuracy")[-1] == ["1", "0.900", "0.500", "86.00 %", "kept"]


def test_names_are_escaped_and_many_epochs_fit(tmp_path):
    run = make_run(tmp_path, SMALL)
    many = {"epochs": FACTS["epochs"] * 20, "chosen": {"epoch": 13, "by": "held_out_loss"}}
    trained(run, {**FACTS, **many, "accuracy": {"validation": {**METRIC, "name": HOSTILE}}})
    html = page_of(run)
    assert "<script>" not in html
    part = html.partition("<h3>Training")[2].partition("</figure>")[0]
    ticks = re.findall(r">(\d+(?:, kept)?)</text>", part)
    assert ticks == ["1", "6", "13, kept", "21", "26", "31", "36"], "11 and 16 would touch the one that was kept"


def test_a_damaged_file_is_an_error(tmp_path):
    run = make_run(tmp_path, SMALL)
    trained(run, {"version": 1})
    with pytest.raises(DataError, match="damaged"):
        page_of(run)


def test_a_training_of_an_earlier_run_is_not_told(tmp_path):
    run = make_run(tmp_path, SMALL)
    write_json(run / "qat.json", FACTS)
    assert "Training" not in Page(page_of(run)).text
