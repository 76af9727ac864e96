"""Analysis: minutes of both analyses on a model of BERT-base's size, and memory however many texts they see."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from tests.bench import base_model
from tests.bench.made import QUICKSTART
from tests.bench.outcome import Outcome, at_most
from tests.bench.process import Spent

FEW, MANY = 32, 256
"""Texts whose peak memory is compared."""


def analysis(_rounds: int) -> Outcome:
    """`outliers` and `leave-one-out` as their commands run them."""
    changes = [word for change in base_model.overrides() for word in ("--set", change)]
    outliers = _analyse("outliers", str(base_model.RECIPE), *changes)
    sites = _analyse("leave-one-out", str(base_model.RECIPE), *changes)
    few, many = (_analyse("outliers", str(QUICKSTART), "--samples", str(count)) for count in (FEW, MANY))
    rows = [
        (name, f"{spent.seconds:.0f}", f"{spent.peak_rss / 1e6:.0f}")
        for name, spent in (
            ("outliers, BERT-base size", outliers),
            ("leave-one-out, BERT-base size", sites),
            (f"outliers, MiniLM, {FEW} texts", few),
            (f"outliers, MiniLM, {MANY} texts", many),
        )
    ]
    bounds = [
        at_most("both analyses, BERT-base size", outliers.seconds + sites.seconds, 300, " s"),
        at_most(f"memory at {MANY} over {FEW} texts", many.peak_rss / few.peak_rss, 1.1, "×"),
    ]
    return Outcome("Analysis", ("what", "s", "peak MB"), rows, bounds)


def _analyse(*words: str) -> Spent:
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "qonnx_pipe", "analyse", *words, "--quiet"])
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"qpipe analyse {' '.join(words)} ended with {process.returncode}")
    return Spent(time.perf_counter() - start, usage.ru_maxrss * 1024)
