"""Files of peers: each tool, in an environment of its own, makes an int8 file of the same model and batches."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qonnx_pipe.core.artifact import sha256_file
from qonnx_pipe.core.examples import Batch
from tests.bench.base_model import DATA

TOOLS = Path(__file__).with_name("peers_tools.py")
SERVER = Path(__file__).with_name("peers_openvino.py")


@dataclass(frozen=True)
class Environment:
    """Packages, pinned, that live in `.data/peers/<name>`."""

    name: str
    packages: tuple[str, ...]

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return (DATA / "peers" / self.name / "bin" / "python").absolute()

    @property
    def command(self) -> tuple[str, str]:
        """How it starts, isolated: neither PYTHONPATH nor what lies beside a script counts."""
        return str(self.python), "-I"

    def install(self) -> None:
        """Make it where it is not there yet; CalledProcessError where pip cannot."""
        done = self.python.parents[1] / "packages.txt"
        wanted = "\n".join(self.packages)
        if done.is_file() and done.read_text() == wanted:
            return
        _run(sys.executable, "-m", "venv", str(self.python.parents[1]))
        _run(*self.command, "-m", "pip", "install", "--quiet", *self.packages)
        done.write_text(wanted)


@dataclass(frozen=True)
class Peer:
    """A tool as one would use it: `tool` is a function of peers_tools.py, `form` the ending of its file."""

    name: str
    environment: Environment
    tool: str
    form: str = "onnx"


@dataclass(frozen=True)
class Missing:
    """A peer that made no file, and why."""

    peer: Peer
    reason: str


ORT = Environment("onnxruntime", ("onnxruntime==1.31.1", "onnx==1.23.2"))
OPTIMUM = Environment(
    "optimum", ("torch==2.13.0", "optimum-onnx==0.1.0", "datasets==4.4.2", "onnxruntime==1.31.1", "onnx==1.21.0")
)
NNCF = Environment("nncf", ("nncf==3.4.0", "onnxruntime==1.31.1", "onnx==1.21.0"))
OPENVINO = Environment("openvino", ("nncf==3.4.0", "openvino==2026.4.1"))

PEERS = (
    Peer("ORT static, as it comes", ORT, "ort_static"),
    Peer("ORT static, MatMul u8·s8", ORT, "ort_static_matmul"),
    Peer("ORT dynamic", ORT, "ort_dynamic"),
    Peer("optimum static", OPTIMUM, "optimum_static"),
    Peer("optimum dynamic", OPTIMUM, "optimum_dynamic"),
    Peer("NNCF, ONNX", NNCF, "nncf_onnx"),
)
NATIVE = Peer("NNCF, OpenVINO", OPENVINO, "nncf_openvino", "xml")


def make_files(peers: Sequence[Peer], model: Path, batches: Sequence[Batch]) -> dict[Peer, Path | Missing]:
    """Each peer's file, in `runs/bench/peers/<digest of the model>`; one that is there is kept."""
    folder = Path("runs/bench/peers") / sha256_file(model)[:12]
    folder.mkdir(parents=True, exist_ok=True)
    handed = folder / "batches.npz"
    arrays = {f"{i}/{name}": values for i, batch in enumerate(batches) for name, values in batch.inputs.items()}
    np.savez(handed, **arrays)  # type: ignore[arg-type]  # no input is called allow_pickle
    return {peer: _make(peer, model, handed, folder) for peer in peers}


def _make(peer: Peer, model: Path, batches: Path, folder: Path) -> Path | Missing:
    target = folder / f"{peer.tool}.{peer.form}"
    if target.is_file():
        return target
    print(f"{peer.name}: making its file", file=sys.stderr)
    partial = target.with_stem(f"{peer.tool}-partial")
    try:
        peer.environment.install()
        script, *handed = (str(path.absolute()) for path in (TOOLS, model, batches, partial))
        _run(*peer.environment.command, script, peer.tool, *handed, place=folder)  # some leave files where they run
    except subprocess.CalledProcessError as failure:
        words = (failure.stderr or "").strip().splitlines()
        return Missing(peer, words[-1][:120] if words else f"ended with {failure.returncode}")
    for part in folder.glob(f"{partial.stem}.*"):
        part.rename(part.with_stem(peer.tool))
    return target


def _run(*command: str, place: Path | None = None) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=place)
