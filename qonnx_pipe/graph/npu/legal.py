"""Legal: what a plan wants of each site, as an NPU can have it, and what it cannot."""

from __future__ import annotations

from dataclasses import replace

from qonnx_pipe.core.granularity import PerChannel, PerTensor
from qonnx_pipe.core.plan import Lowering, PlanEntry
from qonnx_pipe.core.qtype import QTYPES
from qonnx_pipe.core.site import EMBEDDING_TABLES, Role, Skipped
from qonnx_pipe.core.spec import QuantSpec

STREAM = frozenset(
    {
        Role.EMBEDDING_NORM,
        Role.ATTENTION_OUTPUT,
        Role.ATTENTION_SUM,
        Role.FFN_INPUT,
        Role.FFN_OUTPUT,
        Role.RESIDUAL_SUM,
        Role.LAYER_OUTPUT,
    }
)
"""Where groups of dimensions can be had: the residual stream, whose dimensions can be scaled."""

TYPES = ("uint8", "uint16")
"""Codes of activations; weights are int8."""


def adapted(entry: PlanEntry) -> tuple[PlanEntry, tuple[Skipped, ...]]:
    """The entry as an NPU can have it, and a note for each wish that it cannot.

    1. Float: 16 bits. A tensor in float would leave the NPU and come back.
    2. Activations: TYPES, asymmetric, one scale; groups in STREAM alone, where they fold into the dimensions' scales.
    3. MatMul weights: symmetric int8, one scale or one a channel. Tables: the type and the one scale of what they give.
    """
    site, spec, notes = entry.site, entry.spec, list[str]()
    if spec is None:
        if site.is_weight:
            spec = QuantSpec(QTYPES["int8"], PerChannel(1), True)
            notes.append("float weights have no kernel: int8")
        else:
            spec = QuantSpec(QTYPES["uint16"], PerTensor(), False)
            notes.append("a float tensor would leave the NPU: 16 bits")
    lowering: Lowering = "qdq"
    reason = entry.reason
    if site.role in EMBEDDING_TABLES:
        lowering, reason = "gather_dq", "codes and the one scale of what is looked up"
        spec = replace(spec, granularity=PerTensor())
    elif site.is_weight:
        spec = _weight(spec, notes)
    else:
        spec = _activation(entry, spec, notes)
        if spec.granularity != PerTensor():
            lowering, reason = "fold", "groups scale the dimensions of the residual stream"
    skipped = tuple(Skipped(site.id, note) for note in notes)
    return replace(entry, spec=spec, lowering=lowering, reason=reason), skipped


def _weight(spec: QuantSpec, notes: list[str]) -> QuantSpec:
    if spec.dtype.name != "int8" or not spec.symmetric:
        notes.append(f"{spec.dtype.name}: an NPU takes symmetric int8 weights")
    if spec.granularity not in (PerTensor(), PerChannel(1)):
        notes.append("scales along the inputs have no kernel: one scale an output channel")
    if spec.rounding != "nearest":
        notes.append("learned rounding is not carried over to an NPU's form yet: rounded to the nearest")
    granularity = spec.granularity if spec.granularity in (PerTensor(), PerChannel(1)) else PerChannel(1)
    return replace(spec, dtype=QTYPES["int8"], symmetric=True, granularity=granularity, rounding="nearest")


def _activation(entry: PlanEntry, spec: QuantSpec, notes: list[str]) -> QuantSpec:
    if spec.dtype.name not in TYPES or spec.symmetric:
        notes.append(
            f"{'symmetric ' if spec.symmetric else ''}{spec.dtype.name}: an NPU takes asymmetric uint8, uint16"
        )
    if spec.smooth or spec.shift or spec.form not in ("auto", "fold"):
        notes.append(f"smooth, shift and lowering: {spec.form} are for other targets: left out")
    if spec.granularity != PerTensor() and entry.site.role not in STREAM:
        notes.append("one scale: groups can be had in the residual stream alone")
        spec = replace(spec, granularity=PerTensor())
    bits = 8 if spec.dtype.bits <= 8 else 16
    return replace(spec, dtype=QTYPES[f"uint{bits}"], symmetric=False, smooth=0.0, shift=False, form="auto")
