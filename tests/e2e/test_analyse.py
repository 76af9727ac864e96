"""`qpipe analyse` on a tiny model: documents, pages, what they find, and what bad input says."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from qonnx_pipe.cli import main
from qonnx_pipe.core.site import SiteMap
from qonnx_pipe.errors import DataError, ModelError, NumericsError
from qonnx_pipe.stages.analyse.outliers import outliers
from qonnx_pipe.stages.analyse.tokens import Tokens
from qonnx_pipe.stages.plan import sites_of
from tests.e2e.tiny import RECIPE, TEXTS, write_csv
from tests.zoo.checkpoints import OUTLIER_DIMENSION

pytestmark = pytest.mark.export

ROLES = 17
"""Roles of activations in a BERT classifier: 13 of a layer, 2 of the embedding, pooler, head."""


@pytest.fixture(scope="module")
def home(checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with checkpoint, texts and recipe, and a cache."""
    folder = tmp_path_factory.mktemp("analyse")
    shutil.copytree(checkpoint("bert", "text-classification"), folder / "checkpoint")
    write_csv(folder / "texts.csv", TEXTS)
    (folder / "recipe.yaml").write_text(RECIPE)
    return folder


@pytest.fixture
def analyse(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """`analyse(kind, *options)`: exit code, stdout, stderr; files go to `tmp_path`."""
    monkeypatch.setenv("QPIPE_CACHE", str(home / "cache"))

    def run(kind: str, *options: str) -> tuple[int, str, str]:
        code = main(["analyse", kind, str(home / "recipe.yaml"), "--out", str(tmp_path), *options])
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return code, said.out, said.err

    return run


def test_outliers_name_the_planted_dimension(analyse, tmp_path: Path) -> None:
    code, out, _ = analyse("outliers", "--json")
    assert code == 0
    found = json.loads(out)
    assert found == json.loads((tmp_path / "outliers.json").read_text())
    assert (found["texts"], found["start"], found["separator"]) == (24, "[CLS]", "[SEP]")
    sites = {site["site"]: site for site in found["sites"]}
    assert len(sites) == 2 * 13 + 3 + 2
    normed = sites["layer.0/layer.output"]
    assert int(np.argmax(normed["ranges"])) == OUTLIER_DIMENSION
    assert normed["dimensions"][0]["index"] == OUTLIER_DIMENSION
    assert [site["ratio"] for site in found["sites"]] == sorted((s["ratio"] for s in found["sites"]), reverse=True)
    assert [layer["layer"] for layer in found["attention"]] == [0, 1]
    for layer in found["attention"]:
        assert all(0 < a + b < 1 for a, b in zip(layer["separator"], layer["start"], strict=True))
    page = (tmp_path / "outliers.html").read_text()
    assert page.count('<svg class="heat"') == 5  # h, y, x; [SEP], [CLS]
    assert "http" not in page.replace("http-equiv", "")


def test_leave_one_out_and_its_mirror(analyse, tmp_path: Path) -> None:
    code, out, _ = analyse("leave-one-out", "--json", "--set", "quantize.activations.dtype=uint4")
    assert code == 0
    found = json.loads(out)
    assert len(found["changes"]) == ROLES
    gains = [change["score"]["gain_db"] for change in found["changes"]]
    assert gains == sorted(gains, reverse=True)
    assert sum(change["sites"] for change in found["changes"]) == 31
    code, out, _ = analyse("leave-one-out", "--json", "--mirror", "--set", "quantize.activations.dtype=uint4")
    alone = json.loads(out)
    noises = [change["score"]["sqnr_db"] for change in alone["changes"]]
    assert noises == sorted(noises)
    assert max(noises) > alone["all_on"]["sqnr_db"] == found["all_on"]["sqnr_db"]
    assert (tmp_path / "leave-one-out.html").read_text().count('<svg class="chart"') >= ROLES


def test_by_layer_with_weights_as_a_table(analyse) -> None:
    code, out, err = analyse("leave-one-out", "--by", "layer", "--weights", "--samples", "9")
    assert code == 0
    for name in ("layer 0", "layer 1", "embeddings", "head"):
        assert name in out
    assert "9 examples, weights as the recipe says, float accuracy" in out
    assert "leaving" not in err  # no bar in a pipe


def test_ranges_are_chosen_and_written_as_rules(analyse, home: Path, tmp_path: Path) -> None:
    code, out, _ = analyse("ranges", "--json", "--set", "quantize.placement=full")
    assert code == 0
    found = json.loads(out)
    assert found["after_db"] >= found["before_db"]
    by_role = {choice["role"]: choice for choice in found["roles"]}
    assert len(by_role) == ROLES
    methods = {role: {it["method"] for it in choice["candidates"]} for role, choice in by_role.items()}
    assert "cross_entropy" in methods["head"]
    assert "cross_entropy" not in methods["ffn.input"]
    changed = [choice for choice in found["roles"] if choice["best"] != choice["recipe"]]
    assert bool(changed) == bool(found["rules"])
    recipe = tmp_path / "recipe.yaml"
    text = (home / "recipe.yaml").read_text().replace("checkpoint,", f"{home / 'checkpoint'},")
    rules = found["rules"].replace("quantize:", "quantize:\n  placement: full")
    recipe.write_text(text.replace("texts.csv", str(home / "texts.csv")) + rules + "\n")
    assert main(["check", str(recipe)]) == 0


def test_a_recipe_without_integer_activations_is_told(analyse) -> None:
    code, out, err = analyse("leave-one-out", "--set", "quantize.activations.dtype=float")
    assert (code, out) == (3, "")
    assert "quantizes no activation" in err


def test_no_data_are_told_before_any_work(analyse) -> None:
    code, _, err = analyse("outliers", "--set", "data.calibration.source=nowhere.csv")
    assert code == 3
    assert "nowhere.csv" in err
    assert "export" not in err


def test_a_task_that_cannot_be_judged_is_told(analyse) -> None:
    code, _, err = analyse("leave-one-out", "--set", "model.task=fill-mask")
    assert code == 2
    assert "cannot be validated" in err


def test_bad_models_and_batches(exported: Callable[..., Path], tmp_path: Path) -> None:
    path = exported("bert")
    sites = sites_of(path)
    ids = np.array([[2, 7, 3]])
    inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    from qonnx_pipe.core.examples import Batch

    arguments = {"workdir": tmp_path, "progress": lambda _: None}
    with pytest.raises(DataError, match="no examples"):
        outliers(path, sites, [], Tokens(), **arguments)
    batch = Batch(inputs, (None,))
    bare = SiteMap(tuple(site for site in sites.sites if "attention" in site.role.value))
    with pytest.raises(ModelError, match="LayerNormalization"):
        outliers(path, bare, [batch], Tokens(), **arguments)
    model = onnx.load(path)
    table = next(t for t in model.graph.initializer if "word_embeddings" in t.name)
    array = numpy_helper.to_array(table).copy()
    array[7] = np.inf
    table.CopyFrom(numpy_helper.from_array(array, table.name))
    onnx.save(model, tmp_path / "broken.onnx")
    with pytest.raises(NumericsError) as caught:
        outliers(tmp_path / "broken.onnx", sites, [batch], Tokens(), **arguments)
    assert caught.value.where == "embedding.sum"


@pytest.mark.parametrize("kind", ["outliers", "leave-one-out", "ranges"])
def test_help_has_an_example(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["analyse", kind, "--help"]) == 0
    assert f"qpipe analyse {kind}" in capsys.readouterr().out
    assert main(["analyse", "--help"]) == 0
    assert f"qpipe analyse {kind}" in capsys.readouterr().out
