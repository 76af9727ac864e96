"""Kernels: which operator really ran for every weight MatMul of a file, and why it was no integer one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

FLOAT_WEIGHT = "weight not quantized"
FLOAT_ACTIVATION = "activation not quantized"
"""Obstacles on every provider."""

INTEGER_OPS = {
    "MatMulInteger": 1,
    "MatMulIntegerToFloat": 1,
    "DynamicQuantizeMatMul": 1,
    "MatMulNBits": 1,
    "QAttention": 1,
    "QLinearMatMul": 3,
    "QGemm": 3,
}
"""Operators that compute in integers (MatMulNBits only where it says so), and which input is the weight."""


@dataclass(frozen=True)
class WeightMatMul:
    """A node that multiplies by a constant matrix, as it stands in one graph.

    `weight` names the initializer, also behind a DequantizeLinear. `integer`: the operator itself computes in integers.
    `obstacle`: what in this graph is known to keep onnxruntime from an integer kernel; "" when nothing is.
    `form`: type and shape of what is stored, and the attributes of the operators that read it.
    """

    node: str
    op_type: str
    weight: str
    integer: bool
    obstacle: str = ""
    form: str = ""


@dataclass(frozen=True)
class Event:
    """One node of the optimized graph as the profiler saw it: kernel, provider, mean duration in µs.

    `mean_us` None where several nodes have one event, or the provider measures no time. `integer`: whether it
    computed in integers, where the provider says so itself; None where the operator tells.
    """

    node: str
    op_type: str
    provider: str
    mean_us: float | None
    integer: bool | None = None


@dataclass(frozen=True)
class Kernel:
    """What ran for one weight MatMul of the file; `mean_us` None when the profiler did not tell it apart."""

    node: str
    weight: str
    kernel: str
    provider: str
    mean_us: float | None
    integer: bool
    reason: str = ""


@dataclass(frozen=True)
class Kernels:
    """All weight MatMuls of a file with the kernels that ran."""

    nodes: tuple[Kernel, ...]

    @property
    def total(self) -> int:
        """Number of weight MatMuls in the file."""
        return len(self.nodes)

    @property
    def integer(self) -> int:
        """Number of them that ran in integers."""
        return sum(node.integer for node in self.nodes)

    @property
    def floats(self) -> tuple[Kernel, ...]:
        """Those that did not, each with its reason."""
        return tuple(node for node in self.nodes if not node.integer)

    @property
    def fraction(self) -> float | None:
        """Share that ran in integers, 0 … 1; None for a file without weight MatMuls."""
        return self.integer / self.total if self.nodes else None

    def to_json(self) -> dict[str, object]:
        """Plain values: the counts, the float nodes with reasons, every node."""
        return {
            "matmul_total": self.total,
            "matmul_int8": self.integer,
            "float": [{"node": kernel.node, "reason": kernel.reason} for kernel in self.floats],
            "matmul_nodes": [asdict(kernel) for kernel in self.nodes],
        }


def executed(
    written: Sequence[WeightMatMul], optimized: Sequence[WeightMatMul] | None, events: Sequence[Event]
) -> Kernels:
    """Join the file's weight MatMuls with onnxruntime's optimized graph and with the profile of a run.

    The weight's initializer is the first key, since fusions rename nodes more often than weights; among nodes that
    share a weight, and where the weight was renamed, the node's name decides. `optimized` None: the provider compiles
    whole subgraphs, so that there is no such graph; its own events say what ran, mostly under the names of the file's
    nodes. Nodes and events whose names are left over are each other's where they are as many, all in integers
    or none.
    """
    seen = {event.node: event for event in events}
    if optimized is None:
        other = _renamed(written, events)
        return Kernels(tuple(_compiled(node, seen.get(node.node, other)) for node in written))
    return Kernels(tuple(_kernel(node, _counterpart(node, optimized), seen) for node in written))


def _counterpart(node: WeightMatMul, optimized: Sequence[WeightMatMul]) -> WeightMatMul | None:
    same_weight = [other for other in optimized if other.weight == node.weight]
    if len(same_weight) == 1:
        return same_weight[0]
    # MatMul + Add becomes "<name>/MatMulAddFusion", Gemm + Tanh "fused <name>".
    candidates = same_weight or optimized
    named = [other for other in candidates if other.node == node.node]
    fused = f"fused {node.node}"
    named = named or [other for other in candidates if other.node.startswith(f"{node.node}/") or other.node == fused]
    return named[0] if named else None


def _kernel(node: WeightMatMul, ran: WeightMatMul | None, seen: dict[str, Event]) -> Kernel:
    if ran is None:
        reason = "no node of this name or weight is left after onnxruntime's fusions"
        return Kernel(node.node, node.weight, "unknown", "", None, False, reason)
    event = seen.get(ran.node)
    if event is None:
        return Kernel(node.node, node.weight, ran.op_type, "", None, False, "the node did not run")
    reason = "" if ran.integer else _reason(node, event)
    return Kernel(node.node, node.weight, event.op_type, event.provider, event.mean_us, ran.integer, reason)


def _renamed(written: Sequence[WeightMatMul], events: Sequence[Event]) -> Event | None:
    """What all nodes ran whose names the provider changed; None where that cannot be told."""
    names, seen = {node.node for node in written}, {event.node for event in events}
    spare = [event for event in events if event.integer is not None and event.node not in names]
    unseen = [node for node in written if node.node not in seen]
    if len({event.integer for event in spare}) != 1 or len(spare) != len(unseen):
        return None
    kernels = sorted({event.op_type for event in spare})
    return replace(spare[0], op_type=" or ".join(kernels), mean_us=None)


def _compiled(node: WeightMatMul, event: Event | None) -> Kernel:
    everywhere = node.obstacle if node.obstacle in (FLOAT_WEIGHT, FLOAT_ACTIVATION) else ""
    if event is None:
        reason = everywhere or "the provider compiled it under a name that cannot be told"
        return Kernel(node.node, node.weight, "unknown", "", None, False, reason)
    if event.integer is None:  # left to onnxruntime's own kernels
        integer = node.integer if event.op_type == node.op_type else event.op_type in INTEGER_OPS
        reason = "" if integer else _reason(node, event)
    else:
        integer = event.integer and not everywhere
        reason = "" if integer else everywhere or f"{event.provider} chose a float kernel: cause unknown"
    return Kernel(node.node, node.weight, event.op_type, event.provider, event.mean_us, integer, reason)


def _reason(node: WeightMatMul, event: Event) -> str:
    if node.obstacle:
        return node.obstacle
    if (node.op_type, event.op_type) == ("MatMul", "Gemm"):
        return "onnxruntime made a float Gemm of MatMul and Add: quantize the bias to int32, or what the Add gives"
    return "quantized, but onnxruntime did not fuse it: cause unknown"
