"""Which kernel ran: fused and unfused forms of a MatMul, each with its reason, on the CPU provider."""

import platform

import numpy as np
import pytest

from qonnx_pipe.core.kernels import Kernels, executed
from qonnx_pipe.graph.linears import linears
from qonnx_pipe.runtime.census import events, profile
from tests.zoo import graphs

X = np.random.default_rng(0).normal(size=(2, 4, graphs.WIDTH)).astype(np.float32)


def census(path, x=X) -> Kernels:
    seen = profile(path, {"x": x}, path.parent)
    return executed(linears(path), linears(seen.optimized), seen.events)


@pytest.mark.parametrize("options", [{}, {"kind": np.int8}, {"zero_point": False}, {"bias": "add"}, {"readers": 3}])
def test_fused_forms(tmp_path, options):
    kernels = census(graphs.qdq_matmul(tmp_path / "m.onnx", **options))
    assert kernels.fraction == 1.0
    assert {kernel.kernel for kernel in kernels.nodes} == {"MatMulIntegerToFloat"}
    assert {kernel.provider for kernel in kernels.nodes} == {"CPUExecutionProvider"}
    assert all(kernel.mean_us >= 0 for kernel in kernels.nodes)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"kind": np.uint16}, "16-bit activation"),
        ({"bias": "gemm"}, "Gemm with a float bias"),
        ({"bias": "gemm", "zero_point": False}, "a zero point"),
        ({"bias": "add", "rank": 2}, "made a float Gemm of MatMul and Add"),
        pytest.param(
            {"kind": np.int8, "readers": 2},
            "int8 activation that feeds several MatMuls",
            marks=pytest.mark.skipif(platform.machine() != "x86_64", reason="a rule of onnxruntime on x86"),
        ),
    ],
)
def test_unfused_forms_say_why(tmp_path, options, reason):
    rank2 = options.get("bias") == "gemm" or options.get("rank") == 2
    kernels = census(graphs.qdq_matmul(tmp_path / "m.onnx", **options), X[0] if rank2 else X)
    assert kernels.integer == 0
    assert all(reason in kernel.reason for kernel in kernels.floats)


def test_a_float_model_says_that_its_weights_are_float(tmp_path):
    (kernel,) = census(graphs.float_matmul(tmp_path / "m.onnx")).nodes
    assert (kernel.kernel, kernel.integer, kernel.reason) == ("MatMul", False, "weight not quantized")


def test_a_weight_only_model_runs_what_onnxruntime_makes_of_it(tmp_path):
    """onnxruntime fuses it to MatMulNBits at accuracy_level 4, which quantizes the activation by itself."""
    (kernel,) = census(graphs.qdq_matmul(tmp_path / "m.onnx", quantize_activation=False)).nodes
    assert (kernel.kernel, kernel.integer) == ("MatMulNBits", True)


def test_every_part_of_a_split_linear_is_counted(tmp_path):
    kernels = census(graphs.split_matmul(tmp_path / "m.onnx", groups=4))
    assert (kernels.integer, kernels.total) == (4, 4)


def test_means_leave_out_a_nodes_first_run():
    log = [{"cat": "Session", "name": "model_run", "dur": 9}]
    for duration in (90, 10, 20):
        detail = {"op_name": "MatMul", "provider": "CPUExecutionProvider"}
        log.append({"cat": "Node", "name": "a_kernel_time", "dur": duration, "args": detail})
    (event,) = events(log)
    assert (event.node, event.op_type, event.mean_us) == ("a", "MatMul", 15.0)
