"""Run: the files of a run directory as values; what is missing is None, what is damaged is an error."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from qonnx_pipe.charts.rows import Chart
from qonnx_pipe.core.artifact import ANALYSIS, MANIFEST, SENSITIVITY, Manifest
from qonnx_pipe.core.changes import Change, changes
from qonnx_pipe.core.encoding import Encoding
from qonnx_pipe.core.layers import Layers
from qonnx_pipe.core.plan import QuantPlan
from qonnx_pipe.core.sensitivity import Sensitivity
from qonnx_pipe.core.statistics import CalibrationTable, Provenance
from qonnx_pipe.core.tuning import Tuning
from qonnx_pipe.core.verdict import Verdict
from qonnx_pipe.core.verdict_file import read_verdict
from qonnx_pipe.errors import DataError
from qonnx_pipe.stages.report import sensitivity
from qonnx_pipe.stages.report.training import Course, course

Value = TypeVar("Value")
Values = npt.NDArray[Any]

ENCODINGS, TUNING, TRAINING = "encodings.json", "tuning.json", "qat.json"


@dataclass(frozen=True)
class Export:
    """What the page tells of `float/export.json`; `files`: name, nodes before and after simplifying, opset."""

    source: str
    checkpoint_sha256: str
    architecture: str
    task: str
    max_error: float | None
    files: tuple[tuple[str, int, int, int], ...]
    skipped: tuple[str, ...]
    versions: Mapping[str, str]


@dataclass(frozen=True, eq=False)
class Run:
    """Everything that a run directory tells. `encodings` of activations and weights, and `changes`, by site."""

    name: str
    verdict: Verdict | None
    plan: QuantPlan | None
    encodings: Mapping[str, Encoding] | None
    manifest: Manifest | None
    export: Export | None
    calibration: CalibrationTable | None
    changes: Mapping[str, Change] = field(default_factory=dict)
    layers: Layers | None = None
    sensitivity: Chart | None = None
    weights: Sensitivity | None = None
    tuning: Tuning | None = None
    training: Course | None = None


def read_run(folder: Path) -> Run:
    """Read a run directory. Raises DataError when it holds none of a run's files, or a damaged one."""
    manifest = _read(folder / MANIFEST, lambda path: Manifest.from_json(_json(path)))

    def is_own(name: str) -> bool:
        return manifest is None or manifest.names(name)

    run = Run(
        name=manifest.recipe if manifest else folder.absolute().name,
        verdict=_read(folder / "verdict.json", read_verdict),
        plan=_read(folder / "plan.json", lambda path: QuantPlan.from_json(_json(path))),
        encodings=_read(folder / ENCODINGS, _encodings),
        changes=_read(folder / ENCODINGS, lambda path: changes(_json(path))) or {},
        layers=_read(folder / "layers.json", lambda path: Layers.from_json(_json(path))),
        sensitivity=_read(folder / ANALYSIS, lambda path: sensitivity.chart(_json(path))),
        weights=_weights(folder, own=is_own(SENSITIVITY)),
        manifest=manifest,
        export=_read(folder / "float" / "export.json", _export),
        calibration=_read(folder / "calibration.npz", _calibration),
        tuning=_read(folder / TUNING, lambda path: Tuning.from_json(_json(path))) if is_own(TUNING) else None,
        training=_read(folder / TRAINING, lambda path: course(_json(path))) if is_own(TRAINING) else None,
    )
    if not any(getattr(run, part.name) for part in fields(run) if part.name != "name"):
        fix = "name the directory that `qpipe run` wrote, e.g. runs/quickstart"
        raise DataError("this is no run directory", where=str(folder), fix=fix)
    return run


def _weights(folder: Path, *, own: bool) -> Sensitivity | None:
    """What is known of the weights: of an analysis, which has all, or of the run's own stage."""
    places = [folder / ANALYSIS.with_name(SENSITIVITY), *([folder / SENSITIVITY] if own else [])]
    found = (_read(path, _sensitivity) for path in places)
    return next((one for one in found if one is not None), None)


def _sensitivity(path: Path) -> Sensitivity:
    return Sensitivity.from_json(_json(path))


def _read(path: Path, load: Callable[[Path], Value]) -> Value | None:
    if not path.is_file():
        return None
    try:
        return load(path)
    except (ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile) as error:
        fix = "remove it and run the pipeline again; what is cached is not made twice"
        raise DataError("damaged, or written by another version of qpipe", where=str(path), fix=fix) from error


def _json(path: Path) -> dict[str, Any]:
    found = json.loads(path.read_bytes())
    if not isinstance(found, dict):
        raise ValueError("no JSON object")
    return found


def _export(path: Path) -> Export:
    data = _json(path)
    files = tuple((one["name"], one["nodes_before"], one["nodes_after"], one["opset"]) for one in data["files"])
    return Export(
        source=data["source"],
        checkpoint_sha256=data["checkpoint_sha256"],
        architecture=data["architecture"],
        task=data["task"],
        max_error=data["max_error"],
        files=files,
        skipped=tuple(data["skipped"]),
        versions=dict(data["versions"]),
    )


def _encodings(path: Path) -> dict[str, Encoding]:
    data = _json(path)
    return {site: Encoding.from_json(one) for site, one in {**data["activations"], **data["weights"]}.items()}


def _calibration(path: Path) -> CalibrationTable:
    """The table; histograms of every dimension are large and become one of the tensor as they are read."""
    with path.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
        facts = json.loads(str(arrays["provenance"]))
        seen = {name: _small(name, arrays[name]) for name in arrays.files if name != "provenance"}
    provenance = Provenance(**{one.name: facts[one.name] for one in fields(Provenance)})
    return CalibrationTable.from_arrays(seen, provenance)


def _small(name: str, array: Values) -> Values:
    return array.sum(axis=0, keepdims=True) if name.endswith("|histogram|counts") else array
