"""Report: the page says what the files say, whatever is missing, and loads nothing from elsewhere."""

import json
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest

from qonnx_pipe.charts import svg, wording
from qonnx_pipe.cli import main
from qonnx_pipe.core.files import write_json
from qonnx_pipe.core.gates import MAXIMA, MINIMA
from qonnx_pipe.errors import DataError
from qonnx_pipe.stages.report import write_report
from tests.zoo.runs import FLOAT_REASON, LIMITS, Sizes, digest, make_run
from tests.zoo.sensitivities import invented

SMALL = Sizes(layers=2, width=48, inner=96)
FILES = (
    "layers.json",
    "verdict.json",
    "plan.json",
    "encodings.json",
    "manifest.json",
    "float/export.json",
    "calibration.npz",
)
SECTIONS = [
    *("verdict", "tradeoff", "accuracy", "layers", "speed", "size", "kernels", "plan", "sensitivity", "ranges"),
    *("calibration", "encodings", "provenance"),
]
HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=y>{{ 7 * 7 }}"
VOID = {"meta", "br", "link", "img"}


class Page(HTMLParser):
    """Tags with attributes, text, and whether every element is closed in its order."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.text, self.html = [], [], "", html
        self.feed(html)
        self.close()
        assert self.open == []
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.text += " "
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        self.text += " "

    def handle_data(self, data):
        if not self.open or self.open[-1] != "style":
            self.text += data

    def rows(self, section):
        """Cells of every row of every table in a section, as text."""
        part = self.html.partition(f'<section id="{section}">')[2].partition("</section>")[0]
        rows = re.findall(r"<tr[^>]*>(.*?)</tr>", part, re.DOTALL)
        cells = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL) for row in rows]
        return [[" ".join(re.sub(r"<[^>]*>", " ", cell).split()) for cell in row] for row in cells]

    def all(self, tag, key="id"):
        return [attrs.get(key) for name, attrs in self.tags if name == tag]


def page_of(run) -> str:
    write_report(run, run / "out" / "page.html")
    return (run / "out" / "page.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def minilm(tmp_path_factory) -> str:
    """The page about a run of MiniLM's shape."""
    return page_of(make_run(tmp_path_factory.mktemp("minilm")))


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("template"), SMALL)


@pytest.fixture
def run(template, tmp_path):
    return shutil.copytree(template, tmp_path / "run")


def rewrite(path, change) -> None:
    data = json.loads(path.read_text())
    change(data)
    write_json(path, data)


def test_every_section_is_there_and_linked(minilm):
    page = Page(minilm)
    assert page.all("section") == SECTIONS
    assert [link.removeprefix("#") for link in page.all("a", "href")] == SECTIONS[1:]
    assert "No verdict.json" not in page.text


def test_the_figures_are_there(minilm):
    text = Page(minilm).text
    for figure in (
        "Passed all 5 gates",
        "3.86× smaller",
        "90.4 MB",
        "96.29 %",
        "−0.31 % … 0.59 %",
        "25.4 dB",
        "2.62× 2.57× … 2.66×",
        "p95 39.9 ms",
        "190 MB",
        "35/36",
        "61 of 118 sites",
        "uint8 per_embedding_group(6+P) minmax",
        "uint8 per_embedding_group(6, permuted)",
        "256 in 16 batches of 16",
        "29,417",
        FLOAT_REASON,
    ):
        assert figure in text


def test_missed_gates_stand_out(tmp_path):
    page = Page(page_of(make_run(tmp_path, SMALL, limits={**LIMITS, "speedup": 3.0})))
    assert "Not passed 1 of 5 gates missed" in page.text
    assert "Speed-up 2.34× ≥ 3.00× missed" in page.text
    assert page.all("span", "class").count("mark failed") == 1


def test_the_kernel_map_has_a_cell_a_matmul(run):
    page = Page(page_of(run))
    cells = [(attrs["class"], attrs["title"]) for tag, attrs in page.tags if tag == "td" and "title" in attrs]
    assert len(cells) == 2 * 6
    assert [title for state, title in cells if state == "float"] == [
        f"/encoder/layer.1/ffn.output/MatMul: FusedGemm: {FLOAT_REASON}\n311 µs; 311 µs in the float model"
    ]


def test_without_a_plan_the_map_is_one_cell(run):
    (run / "plan.json").unlink()
    page = Page(page_of(run))
    assert page.all("td", "class").count("mixed") == 1
    assert "12 nodes" in page.text


def test_planted_outlier_dimensions_are_found(minilm):
    text = Page(minilm).text
    for dimension in (384 * 4 // 5, 384 // 9):  # 9 and 5 times as wide, in 4 roles × 6 layers
        found = re.search(rf"Dimension {dimension} of 384: (\d+) sites", text)
        assert found is not None
        assert 20 <= int(found[1]) <= 24
    assert "row is a layer" in text
    assert "widest of 3 dimensions" in text
    assert "12 more sites have one range for the whole tensor" in text


@pytest.mark.parametrize("name", FILES)
def test_any_file_may_be_missing(run, name):
    (run / name).unlink()
    page = Page(page_of(run))
    assert f"No {name} in this run" in page.text
    assert page.all("section") == SECTIONS


@pytest.mark.parametrize("name", FILES)
def test_any_file_may_be_alone(run, name):
    for other in set(FILES) - {name}:
        (run / other).unlink()
    assert Page(page_of(run)).all("section") == SECTIONS


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", [b"", b"[]", b"{}", b"PK\x03\x04"])
def test_a_damaged_file_is_named(run, name, damage):
    (run / name).write_bytes(damage)
    with pytest.raises(DataError) as caught:
        write_report(run, run / "page.html")
    assert caught.value.where == str(run / name)
    assert not (run / "page.html").exists()


def test_texts_from_outside_stay_text(tmp_path):
    page = Page(page_of(make_run(tmp_path, Sizes(layers=1, width=24, inner=24, hostile=HOSTILE))))
    assert not {tag for tag, _ in page.tags} & {"script", "img", "iframe", "object", "link"}
    assert not [key for _, attrs in page.tags for key in attrs if key.startswith("on")]
    assert page.text.count("<script>alert(1)</script>") >= 5
    assert "{{ 7 * 7 }}" in page.text


def test_nothing_is_loaded_from_elsewhere(minilm):
    for word in ("http://", "https://", "src=", "url(", "@import", "<link", "<script", "//cdn"):
        assert word not in minilm
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    assert policy in Page(minilm).all("meta", "content")


def test_the_same_files_give_the_same_bytes(run):
    assert page_of(run) == page_of(run)


def test_digests_are_short_with_the_whole_in_the_title(minilm):
    page = Page(minilm)
    assert digest("model.onnx")[:12] in page.text
    assert digest("model.onnx") not in page.text
    assert digest("model.onnx") in page.all("code", "title")
    assert f'<span title="{digest("plan.json")}">plan.json</span>' in minilm  # what calibration.npz was made from


@pytest.mark.parametrize("sizes", [Sizes(), Sizes(layers=24, width=1024, inner=4096)])
def test_the_page_is_small(tmp_path, sizes):
    assert len(page_of(make_run(tmp_path, sizes)).encode()) < 400_000


def test_a_provider_that_failed_is_told(run):
    def fail(verdict):
        nothing = {"accuracy": None, "accuracy_drop": None, "fidelity": None, "latency": [], "kernels": None}
        verdict["results"][1] |= {**nothing, "error": "provider failed: killed"}
        verdict["gates"] = []

    rewrite(run / "verdict.json", fail)
    text = Page(page_of(run)).text
    assert "Not passed the recipe sets no gates, 1 result with an error" in text
    assert "cpu, quantized model: provider failed: killed" in text
    assert "ran on no provider" in text


def test_a_verdict_without_labels_or_timing(run):
    def empty(verdict):
        for result in verdict["results"]:
            result |= {"accuracy": None, "accuracy_drop": None, "latency": []}
        verdict["gates"] = [{"name": "speedup", "limit": 2.0, "value": None, "passed": False}]

    rewrite(run / "verdict.json", empty)
    text = Page(page_of(run)).text
    for words in ("No labels, so no accuracy", "Nothing was timed on cpu", "Speed-up not measured ≥ 2.00× missed"):
        assert words in text


def test_two_providers_have_a_part_each(run):
    def double(verdict):
        verdict["results"] += [{**result, "provider": "openvino"} for result in verdict["results"]]

    rewrite(run / "verdict.json", double)
    assert re.findall(r"<h3>(cpu|openvino)</h3>", page_of(run)) == ["cpu", "openvino"] * 3


def test_what_a_provider_took_is_told(run):
    def partition(verdict):
        fallbacks = [{"op_type": "Attention", "provider": "CPUExecutionProvider", "count": 6}]
        parts = {"nodes": 20, "subgraphs": 7, "fallbacks": fallbacks}
        verdict["results"] = [{**result, "provider": "openvino", "partition": parts} for result in verdict["results"]]

    rewrite(run / "verdict.json", partition)
    text = Page(page_of(run)).text
    assert "It took 14 of 20 nodes in 7 pieces; 6 Attention fell back to CPUExecutionProvider." in text


def test_the_trade_off_says_what_the_verdict_says(run):
    rows = Page(page_of(run)).rows("tradeoff")
    assert rows == [
        ["#", "Provider", "Model", "Accuracy", "SQNR", "Median", "Speed", "Size", "Front"],
        ["1", "cpu", "float", "96.29 %", "–", "97.3 ms", "1.00×", "90.4 MB", "yes"],
        ["2", "cpu", "quantized", "96.14 %", "25.4 dB", "37.1 ms", "2.62×", "23.4 MB", "yes"],
    ]


def test_a_model_that_another_one_beats_is_not_on_the_front(run):
    def better_provider(verdict):
        slow = [{**result, "provider": "slow"} for result in verdict["results"]]
        slow[0] |= {"fidelity": {"sqnr_db": 121.0, "agreement": 1.0}}
        for result, factor in zip(slow, (1.25, 2), strict=True):
            result["latency"] = [{**timed, "p50_ms": timed["p50_ms"] * factor} for timed in result["latency"]]
        verdict["results"] += slow

    rewrite(run / "verdict.json", better_provider)
    rows = Page(page_of(run)).rows("tradeoff")
    assert [(row[1], row[2], row[6], row[8]) for row in rows[1:]] == [
        ("cpu", "float", "1.00×", "yes"),
        ("cpu", "quantized", "2.62×", "yes"),
        ("slow", "float", "0.80×", ""),  # 97.3 / (97.3 · 1.25)
        ("slow", "quantized", "1.31×", ""),  # 97.3 / (37.1 · 2), as exact and as large as on the CPU
    ]


def test_without_labels_agreement_is_weighed(run):
    def unlabelled(verdict):
        for result in verdict["results"]:
            result |= {"accuracy": None, "accuracy_drop": None}

    rewrite(run / "verdict.json", unlabelled)
    rows = Page(page_of(run)).rows("tradeoff")
    assert [row[3] for row in rows] == ["Agreement", "100.00 %", "99.57 %"]


def test_every_traced_site_has_its_sqnr(minilm, run):
    rows = Page(minilm).rows("layers")
    assert rows[0] == ["Site", "SQNR"]
    expected = [
        "embedding.norm",
        *(f"layer.{at}/{role}" for at in range(6) for role in ("residual.sum", "layer.output")),
    ]
    assert rows[1:14] == [[site, f"{40.25 - at / 2:.1f} dB"] for at, site in enumerate(expected)]
    assert rows[14:] == [["Site", "Reason"], ["pooler", "no tensor"]]
    rewrite(run / "layers.json", lambda layers: layers.update(sites=[]))
    assert "No tensor could be compared" in Page(page_of(run)).text


def test_values_and_codes_of_calibration(run):
    encodings = json.loads((run / "encodings.json").read_text())["activations"]
    scale, zero = encodings["layer.0/ffn.activation"]["scale"], encodings["layer.0/ffn.activation"]["zero_point"]
    scale, zero = np.ravel(scale)[0], np.ravel(zero)[0]
    with np.load(run / "calibration.npz") as table:
        values = table["layer.0/ffn.activation|samples|tokens"]
    low, high = -zero * scale, (255 - zero) * scale
    cut = np.mean((values < low - scale / 2) | (values > high + scale / 2))
    text = Page(page_of(run)).text
    shown = [wording.real(end) for end in (low, high, values.min(), values.max())]
    expected = "layer.0/ffn.activation codes {} … {} seen {} … {}; {} cut".format(*shown, wording.percent(cut))
    assert expected in text
    context = "layer.1/attention.context"
    assert re.search(rf"{context} codes \S+ … \S+ seen \S+ … \S+; \d+\.\d\d % cut", text), "from the histogram"
    assert re.search(r"layer.1/ffn.activation codes \S+ … \S+ seen \S+ … [\d.]+ ", text), "only its extremes are known"
    assert re.search(r"layer.0/ffn.input codes \S+ … \S+ ?, 6 scales", text)


def test_folded_values_are_shown_as_their_codes_see_them(run):
    site = "layer.0/ffn.activation"
    width = 96

    def fold(encodings):
        encodings |= {"smoothing": {site: [2.0] * width}, "shifts": {site: [1.0] * width}}

    with np.load(run / "calibration.npz") as table:
        values = (table[f"{site}|samples|tokens"] - 1) / 2
    rewrite(run / "encodings.json", fold)
    seen = f"seen {wording.real(values.min())} … {wording.real(values.max())}, folded;"
    assert re.search(rf"{site} codes \S+ … \S+ {re.escape(seen)}", Page(page_of(run)).text)


def test_a_sensitivity_analysis_is_shown_where_it_lies(run):
    assert "Not analysed" in Page(page_of(run)).text
    score = {"sqnr_db": 21.5, "sqnr_interval": [20.0, 23.0], "agreement": 0.99, "gain_db": 3.25}
    found = {"by": "role", "mirror": False, "examples": 64, "all_on": {**score, "sqnr_db": 18.25}}
    write_json(run / "analysis" / "leave-one-out.json", {**found, "changes": [{"name": "ffn.output", "score": score}]})
    text = Page(page_of(run)).text
    assert "each role left in float, all others quantized" in text
    assert "ffn.output 21.5 dB +3.2" in text or "ffn.output 21.5 dB +3.3" in text
    (run / "analysis" / "leave-one-out.json").write_text("{}")
    with pytest.raises(DataError, match="damaged"):
        page_of(run)


def test_gates_of_a_baseline_read_well(run):
    gates = [
        {"name": "baseline.size_ratio", "limit": 3.8, "value": 3.86, "passed": True},
        {"name": "baseline.speedup[xnnpack 8x128]", "limit": 2.6, "value": 2.5, "passed": False},
        {"name": "baseline.accuracy[cpu]", "limit": 0.95, "value": 0.9614, "passed": True},
    ]
    rewrite(run / "verdict.json", lambda verdict: verdict.update(gates=gates))
    rows = Page(page_of(run)).rows("verdict")
    assert [[*row[:3], row[4]] for row in rows[1:]] == [
        ["Size ratio, baseline", "3.86×", "≥ 3.80×", "passed"],
        ["Speed-up, baseline on xnnpack, 8 × 128", "2.50×", "≥ 2.60×", "missed"],
        ["Accuracy, baseline on cpu", "96.14 %", "≥ 95.00 %", "passed"],
    ]


def test_constant_and_whole_tensors(run):
    with np.load(run / "calibration.npz") as found:
        provenance = found["provenance"]
    arrays = {
        "a|minmax|minimum": np.zeros(8, np.float32),
        "a|minmax|maximum": np.zeros(8, np.float32),
        "b|minmax|minimum": -np.ones(1, np.float32),
        "b|minmax|maximum": np.ones(1, np.float32),
    }
    np.savez(run / "calibration.npz", provenance=provenance, **arrays)
    text = Page(page_of(run)).text
    assert "a 0.0× 0.00 0.00 0.00" in text
    assert "1 more site has one range" in text
    np.savez(run / "calibration.npz", provenance=provenance, **{key: arrays[key] for key in list(arrays)[2:]})
    assert "kept one range for each whole tensor" in Page(page_of(run)).text


def test_heat_merges_neighbours_into_one_path_a_level():
    drawn = svg.heat(np.array([[0, 1, 1, 2], [1, 0, 0, 2]]), 5)
    assert 'viewBox="0 0 4 2"' in drawn
    assert 'height="10"' in drawn
    assert re.findall(r'class="h(\d)" d="([^"]+)"', drawn) == [
        ("1", "M1 0h2v1h-2zM0 1h1v1h-1z"),
        ("2", "M3 0h1v1h-1zM3 1h1v1h-1z"),
    ]


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [(0, 100, [0, 50, 100]), (0.9, 2.8, [1.0, 1.5, 2.0, 2.5]), (-0.4, 0.6, [-0.0, 0.5]), (0, 3, [0, 1, 2, 3])],
)
def test_ticks_are_round_and_inside(low, high, ticks):
    assert svg.Axis(low, high).ticks() == pytest.approx(ticks)


def test_an_axis_around_one_value_has_a_width():
    for value in (0.0, 3.0, -2.0):
        axis = svg.Axis.around([value, value])
        assert axis.at(value) == pytest.approx(50.0)


def test_wording():
    assert wording.spans([5, 0, 1, 2, 2]) == "0–2, 5"
    assert wording.percent(-0.0031) == "−0.31 %"
    assert [wording.megabytes(count) for count in (12, 4520, 23_391_777)] == ["12 B", "4.5 kB", "23.4 MB"]
    assert [wording.real(value) for value in (30.0, 364.97, -2.5, 2.99e-6)] == ["30.0", "365", "−2.50", "2.99e-06"]
    assert wording.gate_limit("accuracy_drop", 0.005) == "≤ 0.50 %"
    assert wording.gate_limit("trained_sqnr_db", 40) == "≥ 40.0 dB"
    assert wording.GATE_NAMES.keys() >= MAXIMA | MINIMA


def test_the_command_writes_beside_the_run_or_where_told(run, tmp_path, capsys):
    assert main(["report", str(run)]) == 0
    assert capsys.readouterr().out.strip() == str(run / "report.html")
    assert main(["report", str(run), "--out", str(tmp_path / "deep" / "page.html")]) == 0
    assert (tmp_path / "deep" / "page.html").read_text() == (run / "report.html").read_text()


def test_the_command_tells_what_is_no_run(tmp_path, capsys):
    assert main(["report", str(tmp_path / "gone")]) == 3
    assert "this is no run directory" in capsys.readouterr().err
    assert not (tmp_path / "gone").exists()


def test_weights_estimators_and_the_loss_around_a_layer(run) -> None:
    found = invented()
    write_json(run / "analysis" / "sensitivity.json", found.to_json())
    page = Page(page_of(run))
    assert "layer 3 Ω 5" in page.text  # eigenvalues 4 and 5: mean 4.5, spread 0.5
    assert "taylor +1.00" in page.text
    assert "The loss around a layer" in page.text
    dearest = max(found.matrices, key=lambda one: one.changes[2].divergence)
    assert dearest.site in page.text


def test_bits_of_a_budget(run) -> None:
    plan = json.loads((run / "plan.json").read_text())
    for entry in plan["entries"]:
        if entry["role"] == "weight":
            entry["spec"]["dtype"], entry["rule"] = ("int3" if entry["layer"] else "int2"), "budget"
    write_json(run / "plan.json", plan)
    page = Page(page_of(run))
    assert "Bits that the budget gave" in page.text
    assert "layer 0 2 2 2 2 2 2 layer 1 3 3 3 3 3 3" in page.text
