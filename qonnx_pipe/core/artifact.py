"""Artifact: a file with its digest and its parents; Manifest: all artifacts of a run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ANALYSIS = Path("analysis") / "leave-one-out.json"
"""Where `qpipe analyse leave-one-out` puts its result in the run directory of its recipe."""

SENSITIVITY = "sensitivity.json"
"""What the sensitivity stage leaves in a run directory, and `qpipe analyse sensitivity` beside ANALYSIS."""

MANIFEST, TRAINED, TRAINED_ROWS = "manifest.json", "trained.onnx", "trained_rows.npy"
"""What a run says of its files, the float model as a QAT left it, and what that gives for the held-out examples."""


def sha256_file(path: Path) -> str:
    """SHA-256 over the bytes of a file, hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_json(value: object) -> str:
    """SHA-256 of a value's canonical JSON (sorted keys, no white space)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Artifact:
    """One file of a run directory: what it is, where (relative to the directory), its digest, what it was made from.

    `key` is the digest of everything that determined it (configuration, inputs, code, versions).
    """

    kind: str
    path: str
    sha256: str
    parents: tuple[str, ...]
    key: str = ""


@dataclass(frozen=True)
class Manifest:
    """Every artifact of a run, and the versions of the software that made them."""

    recipe: str
    artifacts: tuple[Artifact, ...]
    versions: Mapping[str, str]

    def names(self, path: str) -> bool:
        """Whether a file that only some runs leave is of this run, and not of one that had the folder before."""
        return any(artifact.path == path for artifact in self.artifacts)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Manifest:
        """The inverse of `to_json`; KeyError or TypeError on anything that it does not write."""
        artifacts = tuple(
            Artifact(one["kind"], one["path"], one["sha256"], tuple(one["parents"]), one["key"])
            for one in data["artifacts"]
        )
        return cls(data["recipe"], artifacts, dict(data["versions"]))

    def to_json(self) -> dict[str, object]:
        """Plain values for `manifest.json`."""
        return {
            "version": 1,
            "recipe": self.recipe,
            "versions": dict(self.versions),
            "artifacts": [
                {"kind": a.kind, "path": a.path, "sha256": a.sha256, "parents": list(a.parents), "key": a.key}
                for a in self.artifacts
            ],
        }
