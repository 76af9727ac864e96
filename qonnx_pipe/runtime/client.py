"""Client: the parent's side of a worker process, which may die or hang without taking the parent along."""

from __future__ import annotations

import json
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Self

import numpy as np
import numpy.typing as npt

import qonnx_pipe
from qonnx_pipe import errors
from qonnx_pipe.core.files import writing
from qonnx_pipe.core.kernels import Event
from qonnx_pipe.core.partition import Partition
from qonnx_pipe.errors import ProviderError, QpipeError
from qonnx_pipe.runtime import machine
from qonnx_pipe.runtime.census import Profile
from qonnx_pipe.runtime.session import Arrays

START = """
import importlib.util, sys
if sys.version_info < (3, 11):
    sys.exit("a worker needs Python 3.11 or newer, this is " + sys.version.split()[0])
sys.path[:] = [entry for entry in sys.path if entry]
found = importlib.util.spec_from_file_location("qonnx_pipe", {package!r})
sys.modules["qonnx_pipe"] = importlib.util.module_from_spec(found)
found.loader.exec_module(sys.modules["qonnx_pipe"])
from qonnx_pipe.runtime.worker import main
main({memory_mb}, {cores})
"""
"""Program of a worker: this very package, and whatever numpy and onnxruntime its interpreter has; never what lies in
the working directory."""

GOODBYE_S = 5.0
"""Seconds that a worker may live on after it closed its pipes."""


@dataclass(frozen=True)
class Limits:
    """What a worker may take before it is stopped: seconds for one answer, MB of memory (None: what there is).

    An answer is a session opened, a batch run, or a round of timings. The memory's limit holds on Linux alone.
    """

    seconds: float = 600.0
    memory_mb: int | None = None


@dataclass(frozen=True)
class Spell:
    """Seconds of every run of a fresh session, from its creation to its first output, and peak memory so far."""

    seconds: tuple[float, ...]
    first_s: float
    peak_rss: int


@dataclass(frozen=True)
class Installed:
    """A provider as a worker's interpreter has it; `device` is "" where it does not tell."""

    version: str
    device: str
    onnxruntime: str
    python: str


LIMITS = Limits()
LOADING_S = 60.0
"""Seconds that a provider's library may take to load."""


class Worker:
    """A worker process for one model on one provider; use it as a context manager.

    `python`: the interpreter that it runs under, this one by default; it needs numpy and the provider's onnxruntime.
    `cores`: what it is bound to, all by default.
    Every method raises what the worker's errors say, and ProviderError when the process dies, exceeds `limits` or
    answers nonsense; after these three it is gone. Entering raises ProviderError when it cannot be started.
    """

    def __init__(
        self,
        model: Path,
        provider: str = "cpu",
        *,
        threads: int | None = None,
        fallback: bool = True,
        limits: Limits = LIMITS,
        python: Path | None = None,
        cores: Sequence[int] = (),
        command: Sequence[str] = (),
    ) -> None:
        self.model, self.provider = model, provider
        self._session = {
            "model": str(model.absolute()),
            "provider": provider,
            "threads": threads,
            "fallback": fallback,
        }
        self._limits = limits
        package = Path(qonnx_pipe.__file__).absolute()
        start = START.format(package=str(package), memory_mb=limits.memory_mb, cores=tuple(cores))
        self._command = command or (str(python.absolute()) if python else sys.executable, "-c", start)
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()

    def __enter__(self) -> Self:
        self._kills = machine.memory_kills()
        with ExitStack() as stack:
            self._folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="qpipe-worker-")))
            self._log = stack.enter_context((self._folder / "stderr").open("w+b"))
            self._process = stack.enter_context(self._started())
            reader = threading.Thread(target=_forward, args=(self._process.stdout, self._lines), daemon=True)
            reader.start()
            stack.callback(self._hang_up)
            stack.callback(reader.join, GOODBYE_S)  # a child of the worker may hold the pipe open
            stack.callback(self._process.kill)
            self._cleanup = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._cleanup.close()

    def predict(self, batches: Iterable[Arrays]) -> Iterator[dict[str, npt.NDArray[np.generic]]]:
        """Outputs by name for each batch of inputs, in order, one at a time."""
        self._request("open", **self._session)
        outputs = self._folder / "outputs.npz"
        for batch in batches:
            self._request("run", inputs=self._save(batch), outputs=str(outputs))
            with np.load(outputs, allow_pickle=False) as archive:
                yield {name: archive[name] for name in archive.files}
        self._request("close")

    def census(self, inputs: Arrays) -> Profile:
        """What runs used; the optimized graph is gone with the worker."""
        value = self._request("census", **self._session, inputs=self._save(inputs), folder=str(self._folder))
        return Profile(
            value["optimized"] and Path(value["optimized"]),
            tuple(Event(**event) for event in value["events"]),
            value["partition"] and Partition.from_json(value["partition"]),
        )

    def compile(self, target: Path) -> None:
        """Write the model as the provider compiled it, its binary beside it; ProviderError when it writes nothing."""
        if not self._request("compile", **self._session, target=str(target.absolute())):
            what = f"{self.provider} writes nothing that it compiled"
            raise ProviderError(what, where=str(self.model), fix="open the model itself: it is compiled when it loads")

    def check(self) -> Installed:
        """What the interpreter has; ProviderError when no session could be given the provider.

        The model is not looked at.
        """
        return Installed(**self._request("check", provider=self.provider))

    def time(self, inputs: Arrays, *, seconds: float, least: int, processor: bool = False) -> Spell:
        """A fresh session's whole life: runs until `seconds` are over and `least` of them done.

        `processor`: seconds that the processor spent, all in one thread, so for a worker of one thread alone.
        """
        limits = {"seconds": seconds, "least": least, "processor": processor}
        value = self._request("time", **self._session, inputs=self._save(inputs), **limits)
        return Spell(tuple(value["seconds"]), value["first_s"], value["peak_rss"])

    def _started(self) -> subprocess.Popen[str]:
        try:
            return subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                encoding="utf-8",
                errors="replace",
            )
        except OSError as error:
            raise ProviderError(
                f"provider failed: {self.provider}: {self._command[0]} cannot be started: {error.strerror}",
                where=str(self.model),
                fix="give the path of a Python interpreter, such as DIR/bin/python",
            ) from error

    def _hang_up(self) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # a request that nobody read is still in the buffer
            self._process.stdin.close()

    def _save(self, inputs: Arrays) -> str:
        path = self._folder / "inputs.npz"
        with writing(path):
            np.savez(path, **inputs)  # type: ignore[arg-type]  # no input is called allow_pickle
        return str(path)

    def _request(self, command: str, **arguments: object) -> Any:
        try:
            assert self._process.stdin is not None
            print(json.dumps({"command": command, "arguments": arguments}), file=self._process.stdin, flush=True)
            line = self._lines.get(timeout=self._limits.seconds)
        except BrokenPipeError:
            line = ""
        except queue.Empty:
            self._process.kill()
            raise self._failed(f"no answer to {command!r} for {self._limits.seconds:g} s: killed") from None
        if not line:
            raise self._failed(self._death())
        try:
            reply = json.loads(line)
            if "error" not in reply:
                return reply["value"]
            error = reply["error"]
            kind: type[QpipeError] = getattr(errors, error["kind"])
            limited = self._limited if kind is ProviderError else ""
            failure = kind(error["what"] + limited, where=error["where"], fix=error["fix"])
        except (ValueError, TypeError, KeyError, AttributeError):
            self._process.kill()
            raise self._failed(f"the worker answered {command!r} with {line[:80]!r}, which is no answer") from None
        raise failure

    def _death(self) -> str:
        """How the process ended, with its last words."""
        try:
            status = self._process.wait(timeout=GOODBYE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return "the worker closed its pipes without ending: killed"
        how = f"killed by signal {-status} ({_signal_name(-status)})" if status < 0 else f"exit status {status}"
        if status == -signal.SIGKILL and machine.memory_kills() > self._kills:
            how += ", out of memory"
        self._log.seek(0)
        words = self._log.read().decode(errors="replace").strip().splitlines()
        return f"{how}; last words: {words[-1][:300]}" if words else how

    def _failed(self, how: str) -> ProviderError:
        return ProviderError(
            f"provider failed: {self.provider}: {how}{self._limited}",
            where=str(self.model),
            fix="signal 9 mostly means too little memory: try smaller shapes; otherwise report it with this message",
        )

    @property
    def _limited(self) -> str:
        """What a failure must say of the memory's limit: native code that is refused memory ends in many ways."""
        return f" (memory limit {self._limits.memory_mb} MB)" if self._limits.memory_mb else ""


def installed(provider: str, python: Path | None = None) -> Installed:
    """What an interpreter has of a provider, asked by a worker of its own; ProviderError when it cannot run there."""
    with Worker(Path(), provider, limits=Limits(LOADING_S), python=python) as worker:
        return worker.check()


def problem_of(provider: str) -> str:
    """Why a provider that is installed cannot run; "" where it can."""
    try:
        installed(provider)
    except ProviderError as error:
        return error.what
    return ""


def _forward(stream: IO[str], lines: queue.SimpleQueue[str]) -> None:
    """Move lines from a pipe to a queue, so that the parent can wait for them with a time limit; "" is the end."""
    for line in stream:
        lines.put(line)
    lines.put("")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"
