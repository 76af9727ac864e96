"""Compare: the page says of each run what its files say, and tells only what differs."""

import json
import re
import shutil

import pytest

from qonnx_pipe.charts import plot
from qonnx_pipe.charts.svg import Axis
from qonnx_pipe.cli import main
from qonnx_pipe.core.files import write_json
from qonnx_pipe.errors import DataError, UsageError
from qonnx_pipe.stages.report import write_comparison
from tests.unit.stages.test_report import HOSTILE, SMALL, Page, rewrite
from tests.zoo.runs import Sizes, make_run

SECTIONS = ["verdicts", "tradeoff", "layers", "plan", "kernels", "size", "environment"]


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("template"), SMALL)


@pytest.fixture
def before(template, tmp_path):
    return shutil.copytree(template, tmp_path / "before")


@pytest.fixture
def after(template, tmp_path):
    """The same run, noisier by 4 dB, faster, in half the bytes; one MatMul more in float, one site at 16 bits."""
    run = shutil.copytree(template, tmp_path / "after")
    rewrite(run / "manifest.json", lambda manifest: manifest.update(recipe="other", versions={"qonnx-pipe": "0.2.0"}))
    rewrite(run / "layers.json", lambda layers: [site.update(sqnr_db=site["sqnr_db"] - 4) for site in layers["sites"]])
    rewrite(run / "verdict.json", _judge_again)
    rewrite(run / "plan.json", _plan_again)
    return run


def _judge_again(verdict) -> None:
    verdict["size"] |= {"quantized_bytes": 12_000_000}
    verdict["size"]["parts"]["weights"] = 1_000_000
    verdict["gates"][1] |= {"passed": False}
    quantized = verdict["results"][1]
    quantized["fidelity"] |= {"sqnr_db": 21.4}
    quantized["latency"][1] |= {"speedup": 3.1, "p50_ms": 31.4, "throughput": 254.7, "cold_start_s": 0.183}
    quantized["latency"][1] |= {"peak_rss_mb": 131.6}
    quantized["kernels"]["matmul_nodes"][0] |= {"kernel": "FusedMatMul", "integer": False}


def _plan_again(plan) -> None:
    plan["placement"] = "full"
    (entry,) = [entry for entry in plan["entries"] if entry["site"] == "layer.1/attention.context"]
    entry["spec"] |= {"dtype": "uint16"}


def page_of(*runs) -> Page:
    target = runs[0] / "compare.html"
    write_comparison(runs, target)
    return Page(target.read_text(encoding="utf-8"))


def test_every_section_is_there_and_linked(before, after):
    page = page_of(before, after)
    assert page.all("section") == SECTIONS
    assert [link.removeprefix("#") for link in page.all("a", "href")] == SECTIONS
    assert "2 runs compared" in page.text


def test_figures_stand_side_by_side(before, after):
    rows = {row[0]: row[1:] for row in page_of(before, after).rows("verdicts")}
    assert rows["Quantized model"] == ["minilm-w8a8-peg6", "other"]
    assert rows["Verdict"] == ["passed", "not passed"]
    assert rows["Gates met"] == ["5 of 5", "4 of 5"]
    assert rows["Size"] == ["23.4 MB", "12.0 MB"]
    assert rows["Accuracy"] == ["96.14 %", "96.14 %"]
    assert rows["SQNR"] == ["25.4 dB", "21.4 dB"]
    assert rows["MatMuls in int8"] == ["11 of 12", "10 of 12"]
    assert rows["Median, 8 × 128"] == ["37.1 ms", "31.4 ms"]
    assert rows["Speed-up, 8 × 128"] == ["2.62×", "3.10×"]
    assert rows["Sequences a second, 8 × 128"] == ["–", "255"]
    assert rows["Cold start, 8 × 128"] == ["–", "0.18 s"]
    assert rows["Peak memory, 8 × 128"][1] == "132 MB"


def test_all_models_are_weighed_and_equal_float_models_count_once(before, after):
    rows = page_of(before, after).rows("tradeoff")
    assert [[row[1], *row[3:4], row[7], row[9]] for row in rows[1:]] == [
        ["minilm-w8a8-peg6", "float", "1.00×", "yes"],
        ["minilm-w8a8-peg6", "quantized", "2.62×", "yes"],  # less noise
        ["other", "quantized", "3.10×", "yes"],  # faster and smaller
    ]
    rewrite(after / "verdict.json", lambda verdict: verdict["size"].update(quantized_bytes=24_000_000))
    rewrite(after / "verdict.json", lambda verdict: verdict["results"][1]["latency"][1].update(speedup=2.5))
    assert [row[9] for row in page_of(before, after).rows("tradeoff")[1:]] == ["yes", "yes", ""]


def test_noise_inside_stands_side_by_side(before, after):
    rows = page_of(before, after).rows("layers")
    assert rows[0] == ["Site", "minilm-w8a8-peg6", "other"]
    assert rows[1] == ["embedding.norm", "40.2 dB", "36.2 dB"]
    assert len(rows) == 1 + 1 + 2 * SMALL.layers


def test_only_what_differs_is_told(before, after):
    page = page_of(before, after)
    assert page.rows("plan") == [
        ["Setting", "minilm-w8a8-peg6", "other"],
        ["placement", "matmul_inputs", "full"],
        ["Sites", "minilm-w8a8-peg6", "other"],
        [
            "attention.context, layer 1",
            "uint8 per_tensor running_minmax · qdq",
            "uint16 per_tensor running_minmax · qdq",
        ],
    ]
    assert page.rows("kernels")[1:] == [["1 MatMul", "MatMulIntegerToFloat", "FusedMatMul, float"]]
    assert page.rows("environment")[1:] == [["qonnx-pipe", "0.1.0", "0.2.0"]]
    assert page.rows("size")[1] == ["weights", "10.6 MB", "1.0 MB"]


def test_equal_runs_have_no_differences(before, tmp_path):
    page = page_of(before, shutil.copytree(before, tmp_path / "same"))
    for words in ("Every site became the same", "ran in the same kernel", "the same machine and the same versions"):
        assert words in page.text
    assert page.rows("verdicts")[0] == ["Quantized model", str(before), str(tmp_path / "same")], "a recipe run twice"


@pytest.mark.parametrize("name", ["plan.json", "layers.json", "manifest.json", "encodings.json", "float/export.json"])
def test_one_run_may_lack_a_file(before, after, name):
    (after / name).unlink()
    page = page_of(before, after)
    assert page.all("section") == SECTIONS
    assert ("No plan.json in other" in page.text) == (name == "plan.json")
    assert ("other: not traced" in page.text) == (name == "layers.json")


def test_a_provider_of_one_run_alone(before, after):
    def add(verdict):
        verdict["results"] += [{**result, "provider": "openvino"} for result in verdict["results"]]
        verdict["results"][3] |= {"accuracy": None, "fidelity": None, "kernels": None, "latency": []}
        verdict["results"][3]["error"] = "provider failed: killed"

    rewrite(after / "verdict.json", add)
    page = page_of(before, after)
    rows = page.rows("verdicts")
    start = rows.index(["openvino", "", ""])
    assert rows[start + 1] == ["Failure", "–", "provider failed: killed"]
    assert [row[2:4] for row in page.rows("tradeoff")[1:]].count(["openvino", "quantized"]) == 0


def test_texts_from_outside_stay_text(before, tmp_path):
    hostile = make_run(tmp_path / "hostile", Sizes(layers=1, width=24, inner=24, hostile=HOSTILE))
    page = page_of(before, hostile)
    assert not {tag for tag, _ in page.tags} & {"script", "img", "iframe", "object", "link"}
    assert "<script>alert(1)</script>" in page.text


def test_the_command(before, after, tmp_path, capsys):
    assert main(["report", str(before), str(after)]) == 0
    assert capsys.readouterr().out.strip() == str(before / "compare.html")
    assert main(["report", str(before), str(after), "--out", str(tmp_path / "page.html")]) == 0
    assert (tmp_path / "page.html").read_bytes() == (before / "compare.html").read_bytes()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (shutil.rmtree, (3, "this is no run directory")),
        (lambda run: (run / "verdict.json").unlink(), (3, "this run was not validated")),
        (lambda run: write_json(run / "verdict.json", {"version": 7}), (3, "a verdict of version 7")),
        (lambda run: (run / "verdict.json").write_text("{"), (3, "damaged")),
        (lambda run: (shutil.rmtree(run), run.symlink_to("before")), (2, "named twice")),
    ],
)
def test_bad_input(before, after, capsys, change, expected):
    code, words = expected
    change(after)
    assert main(["report", str(before), str(after)]) == code
    printed = capsys.readouterr()
    assert words in printed.err
    assert "Traceback" not in printed.err
    assert not (before / "compare.html").exists()


def test_too_many_runs(before):
    with pytest.raises(UsageError, match="7 runs cannot be compared"):
        write_comparison([before / str(at) for at in range(7)], before / "page.html")
    with pytest.raises(DataError):
        write_comparison([before, before / "none"], before / "page.html")


def test_places_of_points_are_those_of_their_numbers():
    points = [plot.Point(1.0, 10.0, "float", "1", radius=8), plot.Point(3.0, 30.0, "s1", "2", span=(20.0, 40.0))]
    drawn = plot.scatter(points, Axis(0, 4), Axis(0, 40), (str, str)).drawing
    usable = plot.HEIGHT - 2 * plot.PAD
    circles = re.findall(r'<circle class="(\S+) " cx="([\d.]+)%" cy="([\d.]+)" r="([\d.]+)"', drawn)
    assert [(kind, float(x), float(y), float(r)) for kind, x, y, r in circles] == [
        ("float", 26.0, plot.PAD + usable * 0.75, 8.0),
        ("s1", 74.0, plot.PAD + usable * 0.25, 4.5),
    ]
    (span,) = re.findall(r'class="span s1" x1="74%" x2="74%" y1="([\d.]+)" y2="([\d.]+)"', drawn)
    assert [float(end) for end in span] == [plot.PAD + usable / 2, plot.PAD]


def test_names_of_near_points_do_not_cover_each_other():
    points = [plot.Point(2.0 + at / 100, 5.0, "s1", f"{at}", radius=5) for at in range(3)]
    drawn = plot.scatter(points, Axis(0, 4), Axis(0, 10), (str, str)).drawing
    places = re.findall(r'<text x="[\d.]+%" y="([\d.]+)" dx="([-\d.]+)" text-anchor="(\w+)"', drawn)
    assert len(set(places)) == 3


def test_json_of_a_run_is_only_read(before, after):
    files = {path: path.read_bytes() for run in (before, after) for path in run.rglob("*.json")}
    page_of(before, after)
    assert all(json.loads(content) is not None and path.read_bytes() == content for path, content in files.items())
