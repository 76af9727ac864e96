"""Verdict: what a quantized model does beside its float reference, and the gates that it passed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from qonnx_pipe.core.kernels import Kernel, Kernels
from qonnx_pipe.core.partition import Partition
from qonnx_pipe.core.site import Skipped

PROVIDER_FAILED = "provider failed"
"""How the error of a result begins when the provider, not the model, is to blame."""

Interval = tuple[float, float]


@dataclass(frozen=True)
class Metric:
    """One number with its 95 % interval over `n` examples; `per_class` where it splits by class.

    `unit`: fraction or correlation. `also`: what else the task is known by, value by name.
    """

    name: str
    value: float
    unit: str
    n: int
    interval: Interval | None = None
    per_class: Mapping[str, float] = field(default_factory=dict)
    also: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, object]:
        """Plain values, the name under "metric"; `also` where there is something."""
        plain = {key: value for key, value in asdict(self).items() if key != "name" and (key != "also" or value)}
        return {"metric": self.name, **plain}


@dataclass(frozen=True)
class ClassDrop:
    """What a quantized model loses of one class: the metric's drop, its paired 95 % interval, examples with it."""

    name: str
    drop: float
    interval: Interval
    n: int


@dataclass(frozen=True)
class Gate:
    """A limit and what was measured against it; `value` None when it could not be measured, which fails."""

    name: str
    limit: float
    value: float | None
    passed: bool


@dataclass(frozen=True)
class SizeParts:
    """Bytes of one model with its external data, by what they hold; the four add up to the files."""

    weights: int
    embeddings: int
    scales: int
    other: int

    @property
    def total(self) -> int:
        """Bytes of the files."""
        return self.weights + self.embeddings + self.scales + self.other


@dataclass(frozen=True)
class Size:
    """Bytes of the float and of the quantized model; `parts` are the quantized model's.

    `low_bit_bytes`: what the quantized model would take with every weight's codes packed into as few bits as they need;
    `nominal_bytes`: its weights and tables alone, elements × bits. None where nobody counted.
    """

    float_bytes: int
    quantized_bytes: int
    parts: SizeParts
    low_bit_bytes: int | None = None
    nominal_bytes: int | None = None

    @property
    def ratio(self) -> float:
        """How many times smaller the quantized model is."""
        return self.float_bytes / self.quantized_bytes


@dataclass(frozen=True)
class Fidelity:
    """Distance from the float model on the CPU: SQNR of the compared tensor in dB, share of equal predictions.

    `trained_sqnr_db`: the executed file beside the fake-quantized torch model that it was trained as, on the held-out
    examples; None where nothing was trained.
    """

    sqnr_db: float
    agreement: float
    trained_sqnr_db: float | None = None

    def to_json(self) -> dict[str, float]:
        """Plain values; `trained_sqnr_db` where there is one."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class Latency:
    """Time of one run at [batch, sequence], and the peak memory of a process that did nothing else.

    `speedup` = float time / this time, the median over paired rounds, with its 95 % interval; 1 for the float model
    itself, None where the float model could not run. `n` timed runs. `throughput`: sequences a second, over all timed
    runs. `cold_start_s`: from the creation of the process's first session to that session's first output, once.
    """

    batch: int
    sequence: int
    p50_ms: float
    p95_ms: float
    n: int
    speedup: float | None
    speedup_interval: Interval | None
    peak_rss_mb: float
    throughput: float | None = None
    cold_start_s: float | None = None


@dataclass(frozen=True)
class Result:
    """One model on one provider; `error` says why the rest is missing.

    `partition`: what a provider that compiles took; None for one that runs node by node. `class_drops`: what the
    quantized model forgets, the class that loses most first.
    """

    provider: str
    model: str
    accuracy: Metric | None = None
    accuracy_drop: Metric | None = None
    fidelity: Fidelity | None = None
    latency: tuple[Latency, ...] = ()
    kernels: Kernels | None = None
    error: str = ""
    partition: Partition | None = None
    class_drops: tuple[ClassDrop, ...] = ()

    def to_json(self) -> dict[str, object]:
        """Plain values; what was not measured is null, `error` stands only where there is one."""
        plain: dict[str, object] = {
            "provider": self.provider,
            "model": self.model,
            "accuracy": self.accuracy and self.accuracy.to_json(),
            "accuracy_drop": self.accuracy_drop and self.accuracy_drop.to_json(),
            "class_drops": [asdict(one) for one in self.class_drops],
            "fidelity": self.fidelity and self.fidelity.to_json(),
            "latency": [asdict(latency) for latency in self.latency],
            "kernels": self.kernels and self.kernels.to_json(),
            "partition": self.partition and self.partition.to_json(),
        }
        return plain | ({"error": self.error} if self.error else {})


@dataclass(frozen=True)
class Verdict:
    """The content of `verdict.json`."""

    gates: tuple[Gate, ...]
    size: Size
    results: tuple[Result, ...]
    skipped: tuple[Skipped, ...] = ()
    machine: Mapping[str, str | int] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether every gate passed and every provider worked."""
        return all(gate.passed for gate in self.gates) and not any(result.error for result in self.results)

    @property
    def provider_failures(self) -> tuple[Result, ...]:
        """Results that a provider's failure left empty: exit code 4, not 1."""
        return tuple(result for result in self.results if result.error.startswith(PROVIDER_FAILED))

    def to_json(self) -> dict[str, object]:
        """Plain values for `verdict.json`."""
        return {
            "version": 1,
            "passed": self.passed,
            "gates": [asdict(gate) for gate in self.gates],
            "size": {**asdict(self.size), "ratio": self.size.ratio},
            "results": [result.to_json() for result in self.results],
            "skipped": [asdict(skipped) for skipped in self.skipped],
            "machine": dict(self.machine),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Verdict:
        """The inverse of `to_json`; KeyError or TypeError on anything that `to_json` does not write."""
        size = data["size"]
        return cls(
            tuple(Gate(**gate) for gate in data["gates"]),
            _size(size),
            tuple(_result(result) for result in data["results"]),
            tuple(Skipped(**skipped) for skipped in data["skipped"]),
            data["machine"],
        )


def _size(data: Mapping[str, Any]) -> Size:
    counted = (data.get("low_bit_bytes"), data.get("nominal_bytes"))
    return Size(data["float_bytes"], data["quantized_bytes"], SizeParts(**data["parts"]), *counted)


def _result(data: Mapping[str, Any]) -> Result:
    kernels = data["kernels"]
    return Result(
        data["provider"],
        data["model"],
        _metric(data["accuracy"]),
        _metric(data["accuracy_drop"]),
        data["fidelity"] and Fidelity(**data["fidelity"]),
        tuple(
            Latency(**{**latency, "speedup_interval": _interval(latency["speedup_interval"])})
            for latency in data["latency"]
        ),
        kernels and Kernels(tuple(Kernel(**node) for node in kernels["matmul_nodes"])),
        data.get("error", ""),
        Partition.from_json(data["partition"]) if data.get("partition") else None,
        tuple(ClassDrop(**{**one, "interval": tuple(one["interval"])}) for one in data.get("class_drops", ())),
    )


def _metric(data: Mapping[str, Any] | None) -> Metric | None:
    if data is None:
        return None
    fields = {**data, "name": data["metric"], "interval": _interval(data["interval"])}
    del fields["metric"]
    return Metric(**fields)


def _interval(pair: list[float] | None) -> Interval | None:
    return None if pair is None else (pair[0], pair[1])
