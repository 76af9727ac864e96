"""Export: the encodings of a run by the tensors of its float model, and what of the run they do not say."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qonnx_pipe.core import aimet
from qonnx_pipe.core.aimet import FEWEST_BITS, Version
from qonnx_pipe.core.artifact import MANIFEST, TRAINED, Manifest
from qonnx_pipe.core.changes import changes
from qonnx_pipe.core.encoding import EmbeddingGroups, Encoding, Windows
from qonnx_pipe.core.granularity import PerChannel, PerGroup
from qonnx_pipe.core.plan import PlanEntry, QuantPlan
from qonnx_pipe.core.site import EMBEDDING_TABLES, SiteMap, Skipped
from qonnx_pipe.errors import DataError
from qonnx_pipe.graph import io
from qonnx_pipe.graph.fold import fold
from qonnx_pipe.graph.lowerings.activation import MOST_PIECES
from qonnx_pipe.graph.permute import permute
from qonnx_pipe.graph.sampled import matrix


@dataclass(frozen=True)
class Exported:
    """A document for a JSON file, how many tensors it names, and what of the run it does not say."""

    document: Mapping[str, object]
    activations: int
    params: int
    skipped: tuple[Skipped, ...]


@dataclass(frozen=True, eq=False)
class _Run:
    """What a run directory says of its quantizers.

    `stored` is the content of its `encodings.json`. `trained`: whether they, and the weights, were trained.
    """

    model: Path
    plan: QuantPlan
    stored: Mapping[str, Any]
    encodings: Mapping[str, Encoding]
    trained: bool


def export_encodings(run: Path, version: Version) -> Exported:
    """Encodings of a run directory, by the names that tensors have in its `float/model.onnx`.

    What holds for other values than the float model's (folded, reordered, scaled), or has no such form, is left out and
    told. Raises DataError for a directory without plan and encodings, or with damaged ones, and what `io.load` raises.
    """
    made = _read(run)
    moved = _moved(made)
    skipped = [
        Skipped(name, "its bias was corrected: the float model's is not") for name in made.stored["bias_corrections"]
    ]
    if made.trained:
        skipped.append(Skipped(TRAINED, "weights were trained: the encodings of weights are of this file's"))
    activations: dict[str, Encoding] = {}
    params: dict[str, Encoding] = {}
    for entry in made.plan.quantized:
        site, named = entry.site, params if entry.site.is_weight else activations
        encoding = made.encodings[site.id]
        reason = _obstacle(entry, encoding) or moved.get(site.id, "")
        if not reason and site.tensor in named:
            reason = "another site of the same tensor has its encoding there"
        if reason:
            skipped.append(Skipped(site.id, reason))
            continue
        named[site.tensor] = encoding
        if entry.spec is not None and entry.spec.rounding != "nearest":
            skipped.append(Skipped(site.id, "its learned rounding: a reader of encodings rounds to the nearest"))
    document = aimet.to_json(activations, params, version)
    return Exported(document, len(activations), len(params), tuple(skipped))


def _read(run: Path) -> _Run:
    try:
        plan = QuantPlan.from_json(_json(run / "plan.json"))
        stored = _json(run / "encodings.json")
        found = {site: Encoding.from_json(one) for site, one in {**stored["activations"], **stored["weights"]}.items()}
        known = set(found) >= {entry.site.id for entry in plan.quantized} and set(plan.sites.by_id) >= set(
            changes(stored)
        )
        trained = (run / MANIFEST).is_file() and Manifest.from_json(_json(run / MANIFEST)).names(TRAINED)
        if not known or not isinstance(stored["bias_corrections"], dict):
            raise ValueError("encodings of another plan")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        fix = "make the run again; what is cached is not made twice"
        raise DataError("its plan and its encodings do not fit, or are damaged", where=str(run), fix=fix) from error
    return _Run(run / "float" / "model.onnx", plan, stored, found, trained)


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        fix = "name the directory of a finished `qpipe run`, e.g. runs/quickstart"
        raise DataError(f"no run directory with {path.name}", where=str(path.parent), fix=fix)
    found = json.loads(path.read_bytes())
    if not isinstance(found, dict):
        raise ValueError("no JSON object")
    return found


def _obstacle(entry: PlanEntry, encoding: Encoding) -> str:
    """Why an encoding has no place in a document; "" when it has one."""
    match encoding.granularity:
        case EmbeddingGroups(sizes):
            return f"{len(sizes)} scales over the dimensions of an activation: the form has one"
        case Windows(_, dimensions):
            return f"{len(dimensions)} further columns of codes for outliers: the form has none"
        case PerGroup():
            return "a scale a group of inputs: the form has one a tensor or an output channel"
        case PerChannel() if entry.site.role in EMBEDDING_TABLES:
            return "a scale a row of a table: the form has output channels of linear layers only"
    bits = encoding.dtype.bits
    return f"{bits} bits: the form has {FEWEST_BITS} or more" if bits < FEWEST_BITS else ""


def _moved(run: _Run) -> dict[str, str]:
    """Sites whose encodings hold for other values than the float model's, and why.

    The recorded orders and folds are done once more, to see what they change. An order of dimensions leaves one scale
    a tensor as it is.
    """
    sites, reasons = run.plan.sites, {site: _ROWS for site in _with_scaled_rows(run)}
    changed = changes(run.stored)
    if not changed:
        return reasons
    if run.plan.shape is not None:
        return reasons | _moved_for_npu(sites, set(changed))
    before, after = io.load(run.model), io.load(run.model)
    orders = {sites.by_id[site].tensor: change.order for site, change in changed.items() if change.order is not None}
    permute(after, orders)
    affines = {sites.by_id[site]: change.fold for site, change in changed.items() if change.fold is not None}
    folded = fold(after, affines)
    for site in sites.activations:
        affine = folded.get(site.tensor)
        if affine is not None and (affine.scales or affine.shifts):
            reasons[site.id] = "it holds for folded values, not for the float model's"
    for entry in run.plan.quantized:
        if entry.site.is_weight and not np.array_equal(matrix(before, entry.site), matrix(after, entry.site)):
            reasons[entry.site.id] = "it holds for folded or reordered weights, not for the float model's"
    return reasons


def _moved_for_npu(sites: SiteMap, changed: set[str]) -> dict[str, str]:
    """Sites that an NPU's form of the model has in other units, and the weights that make or read them."""
    reasons = dict.fromkeys(changed, "it holds for the units of the NPU's form, not for the float model's")
    for weight in sites.weights:
        around = (
            site.id
            for site in sites.activations
            if set(site.feeds) & set(weight.feeds) or (site.role, site.layer) == (weight.owner, weight.layer)
        )
        if changed & set(around):
            reasons[weight.id] = "it makes or reads what the NPU's form has in other units"
    return reasons


_ROWS = "it holds for rows that are scaled for an activation with a scale a dimension"


def _with_scaled_rows(run: _Run) -> set[str]:
    """Weights whose rows took over the scales of so many groups that slices would cost too much."""
    layers: set[str] = set()
    for entry in run.plan.quantized:
        groups = run.encodings[entry.site.id].granularity
        if isinstance(groups, EmbeddingGroups) and len(groups.sizes) > MOST_PIECES and entry.lowering != "reference":
            layers |= set(entry.site.feeds)
    return {site.id for site in run.plan.sites.weights if layers & set(site.feeds)}
