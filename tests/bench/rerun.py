"""Rerun: the quickstart a second time, then with other evaluation data; and what its verdict promises."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from qonnx_pipe.core.verdict import Verdict
from tests.bench.made import QUICKSTART
from tests.bench.outcome import Outcome, at_least, at_most


@dataclass(frozen=True, eq=False)
class Ran:
    """One `qpipe run`: seconds of the whole command, the stages that it recomputed, the verdict."""

    seconds: float
    recomputed: tuple[str, ...]
    verdict: Verdict

    def row(self, name: str) -> tuple[str, ...]:
        """Cells of the table."""
        return name, f"{self.seconds:.1f}", ", ".join(self.recomputed) or "nothing"


def rerun(_rounds: int) -> Outcome:
    """First (cached or not), second, and with evaluation data that no run has seen."""
    first, second = _run("runs/quickstart"), _run("runs/quickstart")
    unseen = (f"data.evaluation.seed={int(time.time())}", "data.evaluation.samples=64")
    changed = _run("runs/bench/changed", *unseen)
    bounds = [
        at_most("second run", second.seconds, 3, " s"),
        at_most("second run: stages recomputed", len(second.recomputed), 0),
        at_most("other evaluation data: stages but validate, report", len({*changed.recomputed} - LAST), 0),
        at_least("other evaluation data: stages recomputed", len(changed.recomputed), 2),
    ]
    rows = [first.row("first run"), second.row("second run"), changed.row("other evaluation data")]
    return Outcome("qpipe run quickstart, again", ("run", "s", "recomputed"), rows, bounds)


LAST = {"validate", "report"}


def quality(_rounds: int) -> Outcome:
    """Size, fidelity, accuracy and kernels of the quickstart, from its verdict."""
    verdict = _run("runs/quickstart").verdict
    quantized = next(result for result in verdict.results if result.model == "quantized")
    kernels, fidelity, drop = quantized.kernels, quantized.fidelity, quantized.accuracy_drop
    assert kernels is not None
    assert fidelity is not None
    assert drop is not None
    bounds = [
        at_least("quickstart: size", verdict.size.ratio, 3.7, "×"),
        at_least("quickstart: SQNR", fidelity.sqnr_db, 22, " dB"),
        at_most("quickstart: accuracy drop", 100 * drop.value, 0.5, " points"),
        at_least("quickstart: share of int8 MatMuls", kernels.integer / kernels.total, 1),
    ]
    facts = (f"{verdict.size.quantized_bytes / 1e6:.1f}", f"{fidelity.agreement:.2%}", f"{drop.n}")
    return Outcome("Quickstart's verdict", ("MB", "agreement with float", "texts"), [facts], bounds)


def _run(out: str, *changes: str) -> Ran:
    """`qpipe run` as a user types it. Exit code 1 is a missed gate, which 64 texts alone may bring about."""
    settings = [word for change in changes for word in ("--set", change)]
    command = [str(Path(sys.executable).with_name("qpipe")), "run", str(QUICKSTART), "--json", "--out", out, *settings]
    start = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    seconds = time.perf_counter() - start
    if done.returncode not in (0, 1):
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}")
    found = json.loads(done.stdout)
    return Ran(seconds, tuple(found["recomputed"]), Verdict.from_json(found["verdict"]))
