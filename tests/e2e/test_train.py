"""`qpipe train` on a tiny model, and a run that quantizes what another recipe trains."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.e2e.learning import Run, write_learner
from tests.zoo.checkpoints import WORDS

pytestmark = pytest.mark.export

QUANTIZING = """\
version: 1
name: small
model: {source: "recipe:learned.yaml", task: text-classification}
data:
  calibration: {source: texts.csv, max_length: 16}
  evaluation: {source: texts.csv, split: [validation, test], max_length: 16}
validate: {latency: {shapes: []}, gates: {agreement: 0.8}}
"""


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that can learn, and 200 texts: happy and sad ones have no word in common."""
    folder = tmp_path_factory.mktemp("train")
    write_learner(folder)
    (folder / "small.yaml").write_text(QUANTIZING)
    return folder


def test_training_and_what_it_writes(qpipe: Run, place: Path) -> None:
    code, out, err = qpipe("train", "learned.yaml")
    assert code == 0, err
    assert "epoch 4: loss" in out
    assert "checkpoint runs/learned" in out
    folder = place / "runs/learned"
    config = json.loads((folder / "config.json").read_bytes())
    assert config["id2label"] == {"0": "happy", "1": "sad"}
    assert {"model.safetensors", "tokenizer.json", "metrics.json"} <= {path.name for path in folder.iterdir()}
    metrics = json.loads((folder / "metrics.json").read_bytes())
    assert metrics["accuracy"]["test"]["value"] > 0.9
    assert metrics["accuracy"]["test"]["n"] == metrics["examples"]["test"]
    assert metrics["accuracy"]["validation"]["value"] == max(one["accuracy"] for one in metrics["epochs"])
    again = json.loads(qpipe("train", "learned.yaml", "--out", "again", "--anew", "--json")[1])
    assert again["epochs"] == metrics["epochs"]
    for path in folder.iterdir():
        assert path.read_bytes() == (place / "again" / path.name).read_bytes(), path.name


def test_a_run_trains_first_and_only_once(qpipe: Run) -> None:
    code, out, err = qpipe("run", "small.yaml")
    assert code == 0, out + err
    assert "train " in err
    assert "unchanged" not in err
    verdict = json.loads(Path("runs/small/verdict.json").read_bytes())
    float_result, quantized = verdict["results"]
    assert float_result["accuracy"]["value"] > 0.9
    assert quantized["accuracy"]["n"] > 45, "validation and test are 30 % of 200"
    code, _, err = qpipe("run", "small.yaml")
    assert code == 0
    assert all(line.endswith("unchanged") for line in err.splitlines()), "training and every stage"
    assert err.startswith("train ")
    assert qpipe("train", "learned.yaml")[0] == 0
    changed = qpipe("run", "small.yaml", "--until", "export", "--out", "b", "--set", "model.source=recipe:other.yaml")
    assert changed[0] == 2
    assert "there is no such recipe" in changed[2]


def tagged(rng: np.random.Generator) -> dict[str, object]:
    """Words of the first half of the vocabulary are B-low, two neighbours one entity; the others O."""
    picked = rng.integers(0, len(WORDS), 8)
    low = picked < len(WORDS) // 2
    begins = low & ~np.concatenate([[False], low[:-1]])
    tags = [("B-low" if first else "I-low") if own else "O" for own, first in zip(low, begins, strict=True)]
    return {"tokens": [WORDS[index] for index in picked], "tags": tags}


def rated(rng: np.random.Generator) -> dict[str, object]:
    """The share of words of the first half."""
    picked = rng.integers(0, len(WORDS), 8)
    return {"text": " ".join(WORDS[index] for index in picked), "score": float((picked < len(WORDS) // 2).mean())}


def asked(rng: np.random.Generator) -> dict[str, object]:
    """The one word of the first half among eleven others."""
    picked = [*rng.integers(len(WORDS) // 2, len(WORDS), 11), rng.integers(0, len(WORDS) // 2)]
    rng.shuffle(picked)
    answer = WORDS[min(picked)]
    return {"question": "what now", "context": " ".join(WORDS[index] for index in picked), "answers": answer}


@pytest.mark.parametrize(
    ("task", "make", "metric"),
    [
        ("token-classification", tagged, "tag_f1"),
        ("text-regression", rated, "spearman"),
        ("question-answering", asked, "answer_f1"),
    ],
)
def test_every_task_from_its_data_to_a_verdict(
    qpipe: Run, place: Path, task: str, make: Callable[..., dict[str, object]], metric: str
) -> None:
    rng = np.random.default_rng(1)
    (place / "data.jsonl").write_text("\n".join(json.dumps(make(rng)) for _ in range(300)))
    for name in ("learned.yaml", "small.yaml"):
        text = (place / name).read_text().replace("text-classification", task).replace("texts.csv", "data.jsonl")
        (place / name).write_text(text)
    code, out, err = qpipe("run", "small.yaml", "--set", "validate.gates.accuracy_drop=0.1")
    assert code == 0, out + err
    assert metric in out
    metrics = json.loads(next((place / "cache").rglob("metrics.json")).read_bytes())
    assert metrics["accuracy"]["test"]["name"] == metric
    assert metrics["accuracy"]["validation"]["value"] == max(one["accuracy"] for one in metrics["epochs"])
    verdict = json.loads((place / "runs/small/verdict.json").read_bytes())
    exact, quantized = verdict["results"]
    assert exact["accuracy"]["metric"] == quantized["accuracy"]["metric"] == metric
    assert exact["accuracy"]["value"] > 0.3, "it learned something: chance is below 0.1"
    assert exact["accuracy"]["interval"][0] <= exact["accuracy"]["value"] <= exact["accuracy"]["interval"][1]
    assert quantized["fidelity"]["sqnr_db"] > 15
    assert {one["name"] for one in quantized["class_drops"]} == set(exact["accuracy"]["per_class"])
    assert bool(exact["accuracy"]["per_class"]) == (task != "text-regression")
    assert [gate["name"] for gate in verdict["gates"]] == ["accuracy_drop", "agreement"]
    again = ["--reference", "runs/small/float/model.onnx", "--task", task, "--data", "data.jsonl", "--max-length", 16]
    code, out, err = qpipe("validate", "runs/small/model.onnx", *again, "--json")
    assert code == 0, err
    assert json.loads(out)["results"][0]["accuracy"]["n"] == 300


def test_ctrl_c_resumes(qpipe: Run, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from qonnx_pipe.source import training

    assert qpipe("train", "learned.yaml", "--out", "whole")[0] == 0
    shutil.rmtree(place / "cache")
    learn = training._learn

    def stop(*arguments: object, number: int, **others: object) -> float:
        if number == 1:
            raise KeyboardInterrupt
        return learn(*arguments, number=number, **others)  # type: ignore[arg-type]

    monkeypatch.setattr(training, "_learn", stop)
    code, _, err = qpipe("train", "learned.yaml", "--out", "halves")
    assert code == 5
    assert "resume with the same command" in err
    learned = []
    monkeypatch.setattr(
        training, "_learn", lambda *a, number, **o: learned.append(number) or learn(*a, number=number, **o)
    )
    assert qpipe("train", "learned.yaml", "--out", "halves")[0] == 0
    assert learned == [1, 2, 3]
    assert (place / "halves/model.safetensors").read_bytes() == (place / "whole/model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        ("model.source=recipe:learned.yaml", 2, "a recipe that waits for itself"),
        ("model.source=recipe:small.yaml", 2, "this recipe trains nothing"),
        ("train.learning_rate=1.0e+30", 3, "lower train.learning_rate"),
        ("model.source=nowhere/at/all", 3, "no such directory"),
    ],
)
def test_mistakes(qpipe: Run, change: str, code: int, said: str) -> None:
    found, _, err = qpipe("train", "learned.yaml", "--set", change)
    assert found == code, err
    assert said in err
    assert "Traceback" not in err


def test_data_that_cannot_be_learned_from(qpipe: Run, place: Path) -> None:
    def says(name: str, text: str) -> str:
        (place / f"{name}.csv").write_text(text)
        code, _, err = qpipe(
            "train", "learned.yaml", "--set", f"data.train.source={name}.csv", "--set", "data.train.split=all"
        )
        assert code == 3, err
        return err

    assert "all texts are of one class" in says("one", "text,label\na,happy\nb,happy\n")
    assert "1 of 2 texts have no label" in says("none", "text,label\na,happy\nb,\n")
    assert "classes that data.train does not have: 'happy'" in says("other", "text,label\na,sad\nb,glad\n")


def test_a_training_recipe_cannot_be_run(qpipe: Run) -> None:
    code, _, err = qpipe("run", "learned.yaml")
    assert code == 2
    assert "data.calibration: needed to quantize" in err
