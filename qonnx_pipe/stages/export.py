"""Checkpoint → float ONNX: exported, simplified, and compared with torch."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path

import numpy as np

from qonnx_pipe.core.examples import Array
from qonnx_pipe.core.files import atomic_directory_write
from qonnx_pipe.errors import ModelError
from qonnx_pipe.graph.simplify import Simplified, simplify
from qonnx_pipe.runtime.session import open_session, run_session
from qonnx_pipe.source.checkpoint import Checkpoint, resolve
from qonnx_pipe.source.export import Exported, export
from qonnx_pipe.source.probe import probe_batches
from qonnx_pipe.source.reference import REFERENCES, reference_outputs

REPORT = "export.json"
_LIBRARIES = ("qonnx-pipe", "torch", "transformers", "optimum-onnx", "onnx", "onnx-ir", "onnxsim", "onnxruntime")

Outputs = Mapping[str, Array]


@dataclass(frozen=True)
class ExportedFile:
    """One ONNX file: what simplification did, and the largest error against torch (None: not compared).

    The error is absolute for outputs up to 1, relative to the largest of them above.
    """

    name: str
    simplified: Simplified
    max_error: float | None


@dataclass(frozen=True)
class ExportResult:
    """What stands in the output directory; `model` is the one that reads the user's input.

    `skipped` names what was not done, and why.
    """

    directory: Path
    model: Path
    checkpoint: Checkpoint
    task: str
    files: tuple[ExportedFile, ...]
    skipped: tuple[str, ...]
    versions: Mapping[str, str]

    @property
    def max_error(self) -> float | None:
        """The largest error over all files that were compared; None when none was."""
        return max((file.max_error for file in self.files if file.max_error is not None), default=None)

    def to_json(self) -> dict[str, object]:
        """Plain values for `export.json`."""
        return {
            "version": 1,
            "source": self.checkpoint.source,
            "checkpoint_sha256": self.checkpoint.sha256,
            "architecture": self.checkpoint.architecture,
            "task": self.task,
            "max_error": self.max_error,
            "files": [
                {"name": file.name, "max_error": file.max_error, **asdict(file.simplified)} for file in self.files
            ],
            "skipped": list(self.skipped),
            "versions": dict(self.versions),
        }


def export_stage(
    source: str,
    task: str,
    out_dir: Path,
    *,
    name: str | None = None,
    opset: int = 21,
    revision: str | None = None,
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
    with_past: bool = False,
    max_error: float = 1e-3,
) -> ExportResult:
    """Write `model.onnx` (or encoder and decoder files), tokenizer, `config.json` and `export.json` into `out_dir`.

    `max_error` limits the difference of any output from torch's in float32, relative to the largest output where that
    is above 1 (MobileBERT's reach millions); the default leaves room for another order of summation in deep models
    (measured: below 3e-5 in all families), none for a wrong graph.
    `name` is what the files call the source: as the user wrote it, so that equal inputs make equal bytes anywhere.
    All files appear at once, or none. Raises ModelError over the limit, and what `resolve`, `source.export` and
    `simplify` raise.
    """
    checkpoint = resolve(source, revision=revision, allow_pickle=allow_pickle)
    checkpoint = replace(checkpoint, source=name or source)
    with atomic_directory_write(out_dir) as scratch, tempfile.TemporaryDirectory(prefix="qpipe-export-") as raw:
        exported = export(
            checkpoint, task, Path(raw), opset=opset, trust_remote_code=trust_remote_code, with_past=with_past
        )
        files, skipped = [], []
        for path in exported.models:
            simplified = simplify(
                path, scratch / path.name, opset=opset, metadata=_metadata(checkpoint, task, exported)
            )
            error = None
            if path.stem in REFERENCES:
                batches = probe_batches(exported.directory, exported.config, simplified.inputs)
                expected = reference_outputs(
                    checkpoint, task, batches, part=path.stem, trust_remote_code=trust_remote_code
                )
                error = _max_error(scratch / path.name, batches, expected)
            if error is None:
                skipped.append(f"{path.name}: not compared with torch, which has no such part of its own")
            elif not error <= max_error:
                what = f"{path.name} differs from torch by {error:.2g}, more than {max_error:g}"
                fix = "another opset may help; please report the architecture"
                raise ModelError(what, where=source, fix=fix)
            files.append(ExportedFile(path.name, simplified, error))
            skipped += [f"{path.name}: {reason}" for reason in simplified.skipped]
        for path in sorted(Path(raw).glob("*.json")):
            shutil.copyfile(path, scratch / path.name)
        model = out_dir / _main_file(exported.models)
        result = ExportResult(out_dir, model, checkpoint, task, tuple(files), tuple(skipped), _versions())
        report = json.dumps(result.to_json(), indent=2, ensure_ascii=False, allow_nan=False)
        (scratch / REPORT).write_text(report + "\n", encoding="utf-8")
    return result


def _max_error(model: Path, batches: Sequence[Outputs], expected: Sequence[Outputs]) -> float:
    session = open_session(model)
    found = [run_session(session, batch, model=model) for batch in batches]
    return max(
        _difference(ours[name], theirs[name], batch.get("attention_mask", batch.get("encoder_attention_mask")))
        for batch, ours, theirs in zip(batches, found, expected, strict=True)
        for name in ours.keys() & theirs.keys()
    )


def _difference(found: Array, expected: Array, mask: Array | None) -> float:
    """Largest absolute difference, in units of the largest expected value where that is above 1.

    Outputs at padded tokens mean nothing and are left out.
    """
    ours, theirs = found.astype(np.float32), expected.astype(np.float32)
    if mask is not None and ours.shape[:2] == mask.shape:
        ours, theirs = ours[mask == 1], theirs[mask == 1]
    return float(np.abs(ours - theirs).max() / max(1.0, np.abs(theirs).max()))


def _metadata(checkpoint: Checkpoint, task: str, exported: Exported) -> dict[str, str]:
    config = exported.config
    return {
        "version": metadata.version("qonnx-pipe"),
        "source": checkpoint.source,
        "task": task,
        "model_type": checkpoint.model_type,
        "id2label": json.dumps(config.get("id2label", {}), ensure_ascii=False),
        "pad_token_id": str(config.get("pad_token_id") or 0),
    }


def _main_file(models: Sequence[Path]) -> str:
    names = [path.name for path in models]
    return next(name for name in ("model.onnx", "encoder_model.onnx", *names) if name in names)


def _versions() -> dict[str, str]:
    return {name: metadata.version(name) for name in _LIBRARIES}
