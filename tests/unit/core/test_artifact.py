"""Digests are those of hashlib, canonical JSON ignores key order, the manifest is plain JSON."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from qonnx_pipe.core.artifact import Artifact, Manifest, sha256_file, sha256_json


def test_file_digest(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"abc")
    # FIPS 180-4, appendix B.1
    assert sha256_file(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_json_digest_is_canonical() -> None:
    assert sha256_json({"b": [1, "é"], "a": None}) == sha256_json(dict(a=None, b=[1, "é"]))
    assert sha256_json({"a": 1}) == hashlib.sha256(b'{"a":1}').hexdigest()
    assert sha256_json({"a": 1}) != sha256_json({"a": "1"})


def test_json_digest_refuses_nan() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        sha256_json(float("nan"))


def test_manifest_json() -> None:
    manifest = Manifest("r", (Artifact("model", "model.onnx", "00", ("11", "22"), "33"),), {"numpy": "2"})
    assert json.loads(json.dumps(manifest.to_json())) == {
        "version": 1,
        "recipe": "r",
        "versions": {"numpy": "2"},
        "artifacts": [
            {"kind": "model", "path": "model.onnx", "sha256": "00", "parents": ["11", "22"], "key": "33"},
        ],
    }
