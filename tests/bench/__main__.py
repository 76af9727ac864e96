"""Run benchmarks by name (all by default), then one table of every bound: python -m tests.bench speed rerun."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping

from tests.bench import (
    analysis,
    calibration,
    fairness,
    forms,
    peers,
    providers,
    ptq,
    qbert,
    quantizing,
    rerun,
    speed,
    tuning,
)
from tests.bench.outcome import Bound, Outcome, bounds_table, record

BENCHMARKS: Mapping[str, Callable[[int], Outcome]] = {
    "quality": rerun.quality,
    "rerun": rerun.rerun,
    "fairness": fairness.fairness,
    "speed": speed.minilm,
    "speed-base": speed.bert_base,
    "calibration": calibration.duration,
    "memory": calibration.memory,
    "forms": forms.forms,
    "analysis": analysis.analysis,
    "quantizing": quantizing.quantizing,
    "openvino": providers.openvino,
    "tuning": tuning.tuning,
    "peers": peers.peers,
    "peers-openvino": peers.openvino,
    "ptq": ptq.ptq,
    "qbert": qbert.qbert,
}
NAMED = frozenset({"peers", "peers-openvino", "ptq", "qbert"})
"""Left out unless named: they take hours, or environments of gigabytes."""


def main() -> int:
    """0 when every bound is met, 1 otherwise."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--rounds", type=int, default=9, help="interleaved rounds of each race (default 9)")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - BENCHMARKS.keys():
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}")
    bounds: list[Bound] = []
    for name in arguments.names or [name for name in BENCHMARKS if name not in NAMED]:
        outcome = BENCHMARKS[name](arguments.rounds)
        record(outcome)
        bounds += outcome.bounds
    print(bounds_table(bounds))
    return 0 if all(bound.met for bound in bounds) else 1


if __name__ == "__main__":
    sys.exit(main())
