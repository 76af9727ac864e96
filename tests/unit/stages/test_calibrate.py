"""Calibration: the same table however the data are cut, interrupted or padded; no number that is none gets through."""

import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

from qonnx_pipe.core.examples import Batch
from qonnx_pipe.core.site import SiteMap
from qonnx_pipe.core.statistics import CalibrationTable, Provenance, Request, Requests
from qonnx_pipe.errors import DataError, NumericsError
from qonnx_pipe.stages.calibrate import calibrate_stage, read_table, write_table
from qonnx_pipe.stages.plan import sites_of

pytestmark = pytest.mark.export
ROOT = Path(__file__).parents[3]
NOISE = 2e-6
"""Relative: sums of 32 or 64 float32 terms, in another order for another batch size."""

MARKED = 77
"""A token that the broken models break on."""


@pytest.fixture(scope="module")
def model(exported: Callable[..., Path]) -> Path:
    return exported("bert", "text-classification")


@pytest.fixture(scope="module")
def sites(model: Path) -> SiteMap:
    return sites_of(model)


def texts(count: int = 24, longest: int = 12) -> list[np.ndarray]:
    rng = np.random.default_rng(11)
    return [rng.integers(5, 70, rng.integers(2, longest + 1)) for _ in range(count)]


def batched(found: Sequence[np.ndarray], size: int, *, pad: int = 0, left: bool = False) -> list[Batch]:
    """Batches of `size` texts, padded to the longest and `pad` more."""
    batches = []
    for start in range(0, len(found), size):
        group = found[start : start + size]
        width = pad + max(map(len, group))
        ids, mask = np.zeros((2, len(group), width), np.int64)
        for row, text in enumerate(group):
            place = slice(width - len(text), width) if left else slice(len(text))
            ids[row, place], mask[row, place] = text, 1
        inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        batches.append(Batch(inputs, (None,) * len(group)))
    return batches


def histograms(sites: SiteMap, channels: str) -> Requests:
    return Requests(tuple(Request(site.id, histogram=channels) for site in sites.activations if not site.pairwise))


def table_of(
    model: Path,
    sites: SiteMap,
    batches: Sequence[Batch],
    workdir: Path,
    requests: Requests = Requests(),  # noqa: B008 (frozen)
    *,
    progress: Callable[[int], None] = lambda _: None,
) -> CalibrationTable:
    provenance = Provenance("model", "data", 0, 0, 0, len(batches[0]) if batches else 1, 16)
    return calibrate_stage(model, sites, requests, batches, provenance, workdir=workdir, progress=progress)


def assert_same(first: CalibrationTable, second: CalibrationTable) -> None:
    assert first.provenance == second.provenance
    left, right = first.to_arrays(), second.to_arrays()
    assert list(left) == list(right)
    for name, array in left.items():
        np.testing.assert_array_equal(array, right[name], err_msg=name)


def test_min_max_does_not_depend_on_the_batch_size(model: Path, sites: SiteMap, tmp_path: Path) -> None:
    whole, parts = (table_of(model, sites, batched(texts(), size), tmp_path / str(size)) for size in (24, 5))
    assert list(whole.sites) == [site.id for site in sites.activations]
    assert (whole.provenance.batches, parts.provenance.batches) == (1, 5)
    assert whole.provenance.samples == parts.provenance.samples == 24
    assert whole.provenance.tokens == parts.provenance.tokens == sum(map(len, texts()))
    for site, seen in whole.sites.items():
        noise = NOISE * float(np.abs([seen.minmax.minimum, seen.minmax.maximum]).max())
        for end in ("minimum", "maximum"):
            expected, found = getattr(seen.minmax, end), getattr(parts.sites[site].minmax, end)
            np.testing.assert_allclose(found, expected, rtol=0, atol=noise, err_msg=site)


@pytest.mark.parametrize("channels", ["tensor", "embedding"])
def test_histograms_do_not_depend_on_the_batch_size(model: Path, sites: SiteMap, tmp_path: Path, channels: str) -> None:
    wishes = histograms(sites, channels)
    whole, parts = (table_of(model, sites, batched(texts(), size), tmp_path / str(size), wishes) for size in (24, 5))
    for site, seen in whole.sites.items():
        found = parts.sites[site].histogram
        if seen.histogram is None or found is None:
            assert sites.by_id[site].pairwise
            assert seen.histogram is found is None
            continue
        expected = seen.histogram.counts.sum(axis=0)
        moved = np.abs(found.counts.sum(axis=0).cumsum() - expected.cumsum()).max()
        assert found.counts.sum() == seen.histogram.counts.sum()
        assert moved <= 4 + 1e-3 * expected.sum(), "only values at a bin's edge move, and by one bin"


def samples(sites: SiteMap, count: int) -> Requests:
    return Requests(tuple(Request(site.id, samples=count) for site in sites.activations))


SAMPLED = 40
"""Of 24 texts with 2 to 12 tokens: some give one, the others two."""


def test_sampled_tokens_do_not_depend_on_the_batch_size(model: Path, sites: SiteMap, tmp_path: Path) -> None:
    wishes = samples(sites, SAMPLED)
    whole, parts = (table_of(model, sites, batched(texts(), size), tmp_path / str(size), wishes) for size in (24, 5))
    for site, seen in whole.sites.items():
        found = parts.sites[site].samples
        if seen.samples is None or found is None:
            assert sites.by_id[site].pairwise
            assert seen.samples is found is None
            continue
        assert seen.samples.dtype == np.float32
        assert len(seen.samples) == (24 if site in ("pooler", "head") else SAMPLED)
        noise = NOISE * float(np.abs(seen.samples).max())
        np.testing.assert_allclose(found, seen.samples, rtol=0, atol=4 * noise, err_msg=site)


def test_sites_hold_the_same_tokens(model: Path, sites: SiteMap, tmp_path: Path) -> None:
    """Query, key and value are linear in the same input: their samples are that input's, row by row."""
    table = table_of(model, sites, batched(texts(), 5), tmp_path, samples(sites, SAMPLED))
    inputs = table.sites["embedding.norm"].samples
    assert inputs is not None
    padded = np.hstack([inputs, np.ones((len(inputs), 1), np.float32)]).astype(np.float64)
    for role in ("query", "key", "value"):
        outputs = table.sites[f"layer.0/attention.{role}"].samples
        assert outputs is not None
        fitted = padded @ np.linalg.lstsq(padded, outputs.astype(np.float64), rcond=None)[0]
        np.testing.assert_allclose(fitted, outputs, atol=1e-4 * np.abs(outputs).max())


def test_more_tokens_than_there_are(model: Path, sites: SiteMap, tmp_path: Path) -> None:
    found = texts(3)
    table = table_of(model, sites, batched(found, 2), tmp_path, samples(sites, 1024))
    whole = table_of(model, sites, batched(found, 2), tmp_path / "all", histograms(sites, "embedding"))
    for site, seen in table.sites.items():
        if seen.samples is not None:
            np.testing.assert_array_equal(seen.samples.min(axis=0), seen.minmax.minimum, err_msg=site)
            assert len(seen.samples) == whole.sites[site].histogram.counts[0].sum()


@pytest.mark.parametrize("left", [False, True])
def test_padding_leaves_no_trace(model: Path, sites: SiteMap, tmp_path: Path, left: bool) -> None:
    """More padding, on either side; positions decide what BERT computes, so the texts stand where they stood."""
    wishes = histograms(sites, "tensor")
    texts_of_one_length = [text[:2] for text in texts()]
    tight = table_of(model, sites, batched(texts_of_one_length, 6), tmp_path / "a", wishes)
    if left:
        alone = [batch for text in texts_of_one_length for batch in batched([text], 1)]
        tight = table_of(model, sites, [shifted(batch, 5) for batch in alone], tmp_path / "c", wishes)
    loose = table_of(model, sites, batched(texts_of_one_length, 6, pad=5, left=left), tmp_path / "b", wishes)
    for site, seen in tight.sites.items():
        noise = NOISE * float(np.abs([seen.minmax.minimum, seen.minmax.maximum]).max())
        low, high = seen.minmax.minimum, seen.minmax.maximum
        if sites.by_id[site].pairwise:  # a pair with padding counts as 0
            low, high = np.minimum(low, 0), np.maximum(high, 0)
        np.testing.assert_allclose(loose.sites[site].minmax.minimum, low, rtol=0, atol=noise, err_msg=site)
        np.testing.assert_allclose(loose.sites[site].minmax.maximum, high, rtol=0, atol=noise, err_msg=site)
        if seen.histogram is not None:
            assert loose.sites[site].histogram.counts.sum() == seen.histogram.counts.sum()


def shifted(batch: Batch, by: int) -> Batch:
    """The same text behind `by` padded tokens."""
    return Batch({name: np.pad(array, [(0, 0), (by, 0)]) for name, array in batch.inputs.items()}, batch.labels)


@pytest.mark.parametrize("kept", ["extremes", "histograms", "samples"])
def test_ctrl_c_and_the_same_call_again(model: Path, sites: SiteMap, tmp_path: Path, kept: str) -> None:
    wishes = {
        "extremes": Requests(),
        "histograms": histograms(sites, "tensor"),
        "samples": samples(sites, SAMPLED),
    }[kept]
    batches = batched(texts(), 4)
    expected = table_of(model, sites, batches, tmp_path / "whole", wishes)
    heard: list[int] = []

    def interrupt(done: int) -> None:
        heard.append(done)
        if sum(heard) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        table_of(model, sites, batches, tmp_path / "work", wishes, progress=interrupt)
    again: list[int] = []
    found = table_of(model, sites, batches, tmp_path / "work", wishes, progress=again.append)
    assert again == [3, 1, 1, 1]
    assert_same(found, expected)


KILLED = """
import os, signal, sys
from pathlib import Path
from qonnx_pipe.stages import calibrate
from qonnx_pipe.stages.plan import sites_of
from tests.unit.stages.test_calibrate import batched, table_of, texts
calibrate.SAVE_SECONDS = 0.0
heard = []
def kill(done):
    heard.append(done)
    if sum(heard) == 4:
        os.kill(os.getpid(), signal.SIGKILL)
model = Path(sys.argv[1])
table_of(model, sites_of(model), batched(texts(), 4), Path(sys.argv[2]), progress=kill)
"""


def test_kill_9_and_the_same_call_again(model: Path, sites: SiteMap, tmp_path: Path) -> None:
    child = subprocess.run([sys.executable, "-c", KILLED, model, tmp_path / "work"], cwd=ROOT, check=False)
    assert child.returncode == -signal.SIGKILL
    heard: list[int] = []
    found = table_of(model, sites, batched(texts(), 4), tmp_path / "work", progress=heard.append)
    assert heard[0] == 3, "the fourth batch was not yet saved"
    assert_same(found, table_of(model, sites, batched(texts(), 4), tmp_path / "whole"))


def stopped(model: Path, sites: SiteMap, batches: Sequence[Batch], workdir: Path) -> Path:
    """The state that a calibration left that was interrupted after two batches."""
    heard: list[int] = []

    def interrupt(done: int) -> None:
        heard.append(done)
        if sum(heard) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        table_of(model, sites, batches, workdir, progress=interrupt)
    (state,) = workdir.glob("state-*.npz")
    return state


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 half", None])
def test_a_damaged_state_is_only_a_lost_head_start(
    model: Path, sites: SiteMap, tmp_path: Path, damage: bytes | None
) -> None:
    batches = batched(texts(), 4)
    state = stopped(model, sites, batches, tmp_path / "work")
    state.write_bytes(state.read_bytes()[:-40] if damage is None else damage)
    heard: list[int] = []
    found = table_of(model, sites, batches, tmp_path / "work", progress=heard.append)
    assert heard == [0, 1, 1, 1, 1, 1, 1]
    assert_same(found, table_of(model, sites, batches, tmp_path / "whole"))


def test_a_state_of_another_calibration_is_not_taken(model: Path, sites: SiteMap, tmp_path: Path) -> None:
    batches = batched(texts(), 4)
    stopped(model, sites, batches, tmp_path / "work")
    others = {
        "batch size": (batched(texts(), 6), Requests()),
        "padding": (batched(texts(), 4, pad=1), Requests()),
        "texts": (batched(texts(20), 4), Requests()),
        "wishes": (batches, histograms(sites, "tensor")),
        "samples": (batches, samples(sites, SAMPLED)),
    }
    for what, (changed, wishes) in others.items():
        heard: list[int] = []
        table_of(model, sites, changed, tmp_path / "work", wishes, progress=heard.append)
        assert heard[0] == 0, what


def with_token(text: np.ndarray, place: int) -> np.ndarray:
    text = text.copy()
    text[place] = MARKED
    return text


def overflowing(model: Path, path: Path) -> Path:
    """The embedding of one token is so large that the sum with its position overflows."""
    broken = onnx.load(model)
    for name, row, value in (("word_embeddings", MARKED, 3.4e38), ("position_embeddings", 1, 1e37)):
        (table,) = (entry for entry in broken.graph.initializer if name in entry.name)
        values = numpy_helper.to_array(table).copy()
        values[..., row, 3] = value
        table.CopyFrom(numpy_helper.from_array(values, table.name))
    onnx.save(broken, path)
    return path


def poisoned(model: Path, path: Path, tensor: str) -> Path:
    """`tensor` is NaN in one dimension at the marked token."""
    broken = onnx.load(model)
    graph = broken.graph
    place, producer = next((i, node) for i, node in enumerate(graph.node) if tensor in node.output)
    producer.output[list(producer.output).index(tensor)] = "clean"
    width = 32
    poison = np.zeros(width, np.float32)
    poison[9] = np.nan
    for name, array in {"marked": np.int64(MARKED), "last": np.int64([-1]), "poison": poison}.items():
        graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    nodes = [
        helper.make_node("Equal", ["input_ids", "marked"], ["is_marked"]),
        helper.make_node("Unsqueeze", ["is_marked", "last"], ["where"]),
        helper.make_node("Add", ["clean", "poison"], ["spoilt"]),
        helper.make_node("Where", ["where", "spoilt", "clean"], [tensor]),
    ]
    for offset, node in enumerate(nodes, 1):
        graph.node.insert(place + offset, node)
    onnx.save(broken, path)
    return path


def test_an_overflow_is_told_with_its_batch_and_site(model: Path, sites: SiteMap, tmp_path: Path) -> None:
    found = texts()
    found[9] = with_token(found[9], 1)  # the third batch of four
    broken = overflowing(model, tmp_path / "broken.onnx")
    with pytest.raises(NumericsError, match="calibration batch 2") as caught:
        table_of(broken, sites, batched(found, 4), tmp_path / "work")
    assert caught.value.where in sites.by_id
    assert sites.by_id[caught.value.where].layer in (None, 0)
    table_of(broken, sites, batched(texts(), 4), tmp_path / "work")  # without that token nothing is wrong


@pytest.mark.parametrize("site", ["layer.0/attention.sum", "layer.1/ffn.input", "layer.1/ffn.output"])
def test_nan_in_the_middle_is_found_though_the_output_is_finite(
    model: Path, sites: SiteMap, tmp_path: Path, site: str
) -> None:
    broken = poisoned(model, tmp_path / "broken.onnx", sites.by_id[site].tensor)
    found = texts()
    found[5] = with_token(found[5], len(found[5]) - 1)
    batches = batched(found, 4)
    if site.startswith("layer.1"):  # the head reads the first token alone, and no attention follows
        (logits,) = ort.InferenceSession(broken, providers=["CPUExecutionProvider"]).run(None, dict(batches[1].inputs))
        assert np.isfinite(logits).all()
    with pytest.raises(NumericsError, match=r"NaN.* in calibration batch 1") as caught:
        table_of(broken, sites, batches, tmp_path / "work")
    assert caught.value.where.startswith(site.partition("/")[0])


def test_nan_at_padding_does_not_count(model: Path, sites: SiteMap, tmp_path: Path) -> None:
    """The marked token stands where the mask says padding, in the last layer: nothing real reads it."""
    broken = poisoned(model, tmp_path / "broken.onnx", sites.by_id["layer.1/ffn.output"].tensor)
    batch = batched(texts(4), 4, pad=2)[0]
    batch.inputs["input_ids"][:, -1] = MARKED
    table = table_of(broken, sites, [batch], tmp_path / "work")
    assert all(np.isfinite(seen.minmax.maximum).all() for seen in table.sites.values())


def test_nothing_to_calibrate_on(model: Path, sites: SiteMap, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no calibration samples") as caught:
        table_of(model, sites, [], tmp_path)
    assert "samples" in caught.value.fix


def test_a_table_survives_its_file(model: Path, sites: SiteMap, tmp_path: Path) -> None:
    table = table_of(model, sites, batched(texts(4), 4), tmp_path / "work", histograms(sites, "embedding"))
    write_table(tmp_path / "table.npz", table)
    assert_same(read_table(tmp_path / "table.npz"), table)


@pytest.mark.parametrize("content", [None, b"", b"nonsense", b"PK\x05\x06" + bytes(18)])
def test_what_is_no_table_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "table.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_table(path)
    assert caught.value.where == str(path)
    assert "qpipe calibrate" in caught.value.fix


MEASURED = """
import sys, tempfile
from pathlib import Path
from qonnx_pipe.core.statistics import Requests
from qonnx_pipe.runtime.machine import peak_rss
from qonnx_pipe.stages.plan import sites_of
from tests.unit.stages.test_calibrate import batched, histograms, samples, table_of, texts
model, count, channels = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
sites = sites_of(model)
wishes = {"none": Requests(), "samples": samples(sites, 256)}.get(channels) or histograms(sites, "embedding")
with tempfile.TemporaryDirectory() as folder:
    table_of(model, sites, batched(texts(16 * count, 100), 16), Path(folder), wishes)
print(peak_rss())
"""


@pytest.mark.slow
@pytest.mark.parametrize("channels", ["none", "embedding", "samples"])
def test_memory_does_not_grow_with_the_batches(model: Path, channels: str) -> None:
    peaks = [
        int(subprocess.check_output([sys.executable, "-c", MEASURED, model, str(count), channels], cwd=ROOT))
        for count in (8, 64)
    ]
    assert peaks[1] <= 1.1 * peaks[0]
