"""Adopt: a plan and a file of encodings → what each site gets from the file, checked against plan and model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from qonnx_pipe.core import aimet
from qonnx_pipe.core.aimet import Grid
from qonnx_pipe.core.artifact import sha256_file
from qonnx_pipe.core.encoding import Encoding
from qonnx_pipe.core.granularity import PerChannel, PerOutputGroup, PerTensor
from qonnx_pipe.core.plan import PlanEntry, QuantPlan
from qonnx_pipe.core.site import Site, Skipped
from qonnx_pipe.core.spec import QuantSpec
from qonnx_pipe.core.statistics import CalibrationTable, MinMax, Provenance, SiteStatistics
from qonnx_pipe.errors import DataError, UsageError
from qonnx_pipe.graph import io
from qonnx_pipe.graph.sampled import matrix
from qonnx_pipe.graph.walk import value_names

FORM_FIX = f"give encodings of ONNX tensors in the form of AIMET, version {' or '.join(aimet.VERSIONS)}"


@dataclass(frozen=True)
class Adopted:
    """A plan with encodings by site id, in place of calibration.

    `table`: the range that each activation's codes reach. `unused`: tensors of the file that the plan leaves float.
    """

    plan: QuantPlan
    encodings: Mapping[str, Encoding]
    table: CalibrationTable
    unused: tuple[str, ...]


def adopt_encodings(file: Path, plan: QuantPlan, model: Path) -> Adopted:
    """What the encodings of `file` make of `plan`: types and granularities are the plan's, scales the file's.

    An activation that the file calls float, or does not name, stays float; the latter is told as skipped. A weight that
    it does not name is encoded from its values. Raises DataError for a file that is missing or damaged, names tensors
    that `model` lacks, disagrees with the plan in bits, symmetry or number of scales, or says nothing of its sites;
    UsageError where the plan needs calibration data besides; and what `io.load` raises.
    """
    grids, loaded = _read(file), io.load(model)
    _check_names(file, grids, value_names(loaded.graph))
    _check_plan(plan, grids)
    encodings: dict[str, Encoding] = {}
    entries, skipped = list[PlanEntry](), list(plan.skipped)
    for entry in plan.entries:
        site, spec = entry.site, entry.spec
        grid = grids.get(site.tensor)
        if spec is None or (grid is None and site.is_weight and site.tensor not in grids):
            entries.append(entry)
        elif grid is None:
            reason = f"float in {file.name}"
            if site.tensor not in grids:
                reason = f"no encoding in {file.name}; kept float"
                skipped.append(Skipped(site.id, reason))
            entries.append(replace(entry, spec=None, lowering="float", reason=reason))
        else:
            encodings[site.id] = _encoding(file, site, spec, grid, loaded)
            reason = "; ".join(filter(None, (entry.reason, f"encoding from {file.name}")))
            entries.append(replace(entry, reason=reason))
    if not encodings:
        fix = "give the encodings of this model, or a recipe that quantizes what they are of"
        raise DataError("it has no encoding of anything that the recipe quantizes", where=str(file), fix=fix)
    used = {entry.site.tensor for entry in plan.quantized}
    unused = tuple(name for name, grid in grids.items() if grid is not None and name not in used)
    adopted = replace(plan, entries=tuple(entries), skipped=tuple(skipped))
    return Adopted(adopted, encodings, _table(file, model, adopted, encodings), unused)


def _read(file: Path) -> dict[str, Grid | None]:
    if not file.is_file():
        raise DataError(
            "no such file of encodings", where=str(file), fix="`qpipe encodings` and AIMET write such files"
        )
    try:
        document = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DataError("no JSON, or damaged", where=str(file), fix=FORM_FIX) from error
    try:
        return aimet.from_json(document)
    except ValueError as error:
        raise DataError(str(error), where=str(file), fix=FORM_FIX) from error


def _check_names(file: Path, grids: Mapping[str, Grid | None], known: frozenset[str]) -> None:
    foreign = [name for name in grids if name not in known]
    if foreign:
        what = f"{len(foreign)} of its {len(grids)} tensors are none of the model's: {', '.join(foreign[:3])}"
        fix = "give the very float model that the encodings were made for"
        raise DataError(f"{what}{', …' if len(foreign) > 3 else ''}", where=str(file), fix=fix)


def _check_plan(plan: QuantPlan, grids: Mapping[str, Grid | None]) -> None:
    """Refuse a plan that scales alone cannot carry out."""
    instead = "or quantize with --calibration"
    for wanted, key in ((plan.bias_correction, "bias_correction"), (plan.equalise, "equalise")):
        if wanted:
            what, fix = "it needs more than encodings of a file", f"--set quantize.{key}=false, {instead}"
            raise UsageError(what, where=f"quantize.{key}", fix=fix)
    for entry in plan.quantized:
        spec = entry.spec
        if spec is None or entry.site.is_weight or grids.get(entry.site.tensor) is None:
            continue
        if entry.lowering != "qdq" or spec.folds or not isinstance(spec.granularity, PerTensor):
            what = f"the recipe ({entry.rule}) wants {spec} here; encodings of a file are one scale a tensor"
            raise UsageError(what, where=entry.site.id, fix=f"change the recipe there, {instead}")


def _encoding(file: Path, site: Site, spec: QuantSpec, grid: Grid, model: io.Model) -> Encoding:
    """The grid as the codes that the spec wants; DataError where they disagree."""

    def disagree(what: str, fix: str) -> DataError:
        return DataError(
            f"{site.tensor}: {what} for {site.id}", where=str(file), fix=f"{fix}, or take it out of the file"
        )

    kind = "weights" if site.is_weight else "activations"
    if grid.bits != spec.dtype.bits:
        raise disagree(f"{grid.bits} bits, the recipe wants {spec.dtype.name}", f"change {kind}.dtype in the recipe")
    layout = PerChannel(1) if isinstance(spec.granularity, PerOutputGroup) else spec.granularity
    scales, fix = len(grid.scale), f"change {kind}.granularity in the recipe"
    told = f"{scales} scale{'s' * (scales > 1)}, the recipe wants"
    if not isinstance(layout, PerTensor | PerChannel):
        raise disagree(f"{told} {layout}, which the form lacks", fix)
    count = matrix(model, site).shape[layout.axis] if isinstance(layout, PerChannel) else 1
    if scales != count:
        raise disagree(f"{told} {f'{count} ({spec.granularity})' if count > 1 else layout}", fix)
    if isinstance(spec.granularity, PerOutputGroup) and not _is_grouped(grid, spec.granularity):
        raise disagree(f"scales that differ in a group, the recipe wants {spec.granularity}", fix)
    encoding = grid.encoding(spec.dtype, layout)
    middle = 0 if spec.dtype.signed else 1 << (spec.dtype.bits - 1)
    if spec.symmetric and np.any(encoding.zero_point != middle):
        fix = f"give {kind} symmetric: false in the recipe"
        raise disagree("offsets beside the middle, the recipe wants symmetric codes", fix)
    return encoding


def _is_grouped(grid: Grid, groups: PerOutputGroup) -> bool:
    """Whether a scale and an offset for each output are the same within each group."""
    sizes = np.asarray(groups.sizes(len(grid.scale)))
    first = np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.array_equal(grid.scale, grid.scale[first]) and np.array_equal(grid.offset, grid.offset[first])


def _table(file: Path, model: Path, plan: QuantPlan, encodings: Mapping[str, Encoding]) -> CalibrationTable:
    """The range of each adopted activation as if calibration had seen it."""
    sites = {}
    for entry in plan.quantized:
        if not entry.site.is_weight:
            found = encodings[entry.site.id]
            codes = np.asarray([found.dtype.qmin, found.dtype.qmax], np.int64)
            low, high = ((codes - found.zero_point) * found.scale.astype(np.float64)).astype(np.float32)
            sites[entry.site.id] = SiteStatistics(MinMax(np.asarray([low]), np.asarray([high])))
    return CalibrationTable(sites, Provenance(sha256_file(model), sha256_file(file), 0, 0, 0, 0, 0))
