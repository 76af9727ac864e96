"""The join of file, optimized graph and profile, on hand-made records."""

from qonnx_pipe.core.kernels import Event, Kernels, WeightMatMul, executed


def written(node: str, weight: str, obstacle: str = "") -> WeightMatMul:
    return WeightMatMul(node, "MatMul", weight, integer=False, obstacle=obstacle)


def ran(node: str, weight: str, op_type: str = "MatMulIntegerToFloat") -> WeightMatMul:
    return WeightMatMul(node, op_type, weight, integer=op_type != "MatMul")


def event(node: str, op_type: str = "MatMulIntegerToFloat") -> Event:
    return Event(node, op_type, "CPUExecutionProvider", 12.5)


def test_a_renamed_node_is_found_by_its_weight():
    kernels = executed([written("a", "w")], [ran("fused_7", "w")], [event("fused_7")])
    (kernel,) = kernels.nodes
    assert (kernel.node, kernel.kernel, kernel.integer, kernel.mean_us) == ("a", "MatMulIntegerToFloat", True, 12.5)
    assert kernels.fraction == 1.0


def test_a_shared_weight_is_told_apart_by_the_nodes_name():
    optimized = [ran("a", "w"), ran("b", "w", "MatMul")]
    events = [event("a"), event("b", "MatMul")]
    kernels = executed([written("a", "w"), written("b", "w", "activation not quantized")], optimized, events)
    assert [kernel.integer for kernel in kernels.nodes] == [True, False]
    assert kernels.floats[0].reason == "activation not quantized"


def test_a_renamed_weight_is_found_by_the_nodes_name_or_its_beginning():
    optimized = [ran("a", "w_transposed"), ran("b/MatMulAddFusion", "v_transposed"), ran("fused c", "u_transposed")]
    events = [event("a"), event("b/MatMulAddFusion"), event("fused c")]
    kernels = executed([written("a", "w"), written("b", "v"), written("c", "u")], optimized, events)
    assert kernels.integer == kernels.total == 3


def test_what_vanished_or_did_not_run_is_float_with_a_reason():
    kernels = executed([written("a", "w"), written("b", "v")], [ran("b", "v")], [])
    assert [kernel.integer for kernel in kernels.nodes] == [False, False]
    assert "no node of this name or weight" in kernels.nodes[0].reason
    assert kernels.nodes[1].reason == "the node did not run"


def test_a_float_kernel_without_a_known_obstacle_says_so():
    (kernel,) = executed([written("a", "w")], [ran("a", "w", "MatMul")], [event("a", "MatMul")]).nodes
    assert "cause unknown" in kernel.reason


def compiled(node: str, kernel: str = "FullyConnected brgemm_I8", *, integer: bool = True) -> Event:
    return Event(node, kernel, "OpenVINOExecutionProvider", 7.0, integer)


def test_a_compiling_provider_says_itself_what_ran():
    names = ("b", "d")
    events = [compiled("a"), *(compiled(name, "FullyConnected gemm_f32", integer=False) for name in names)]
    rule = "a rule of the CPU"
    first, second, third, fourth, fifth = executed(
        [
            written("a", "w", rule),
            written("b", "v", "weight not quantized"),
            written("c", "u", rule),
            written("d", "t", rule),
            written("e", "s"),
        ],
        None,
        [*events, event("c", "MatMul"), event("e")],
    ).nodes
    assert (first.kernel, first.integer, first.reason) == ("FullyConnected brgemm_I8", True, "")
    assert (second.integer, second.reason, second.mean_us) == (False, "weight not quantized", 7.0)
    assert (third.provider, third.integer, third.reason) == ("CPUExecutionProvider", False, rule), "it fell back"
    assert "OpenVINOExecutionProvider chose a float kernel" in fourth.reason, "that rule is not OpenVINO's"
    assert (fifth.provider, fifth.integer, fifth.reason) == ("CPUExecutionProvider", True, ""), "fused there"


def test_nodes_without_names_are_counted_one_by_one():
    nodes = [written("", "w"), written("", "v"), written("", "u")]
    assert executed(nodes, None, [compiled("MatMul_7")]).integer == 0
    assert executed(nodes, None, [compiled(f"MatMul_{i}") for i in range(3)]).integer == 3


def test_renamed_operations_are_those_that_are_left_when_all_are_alike():
    nodes = [written("a", "w"), written("b", "v"), written("c", "u")]
    kernels = executed(
        nodes, None, [compiled("a"), compiled("MatMul_7"), compiled("MatMul_9", "FullyConnected amx_I8")]
    )
    assert kernels.integer == 3
    assert [kernel.mean_us for kernel in kernels.nodes] == [7.0, None, None]
    assert kernels.nodes[1].kernel == "FullyConnected amx_I8 or FullyConnected brgemm_I8"


def test_renamed_operations_that_differ_or_are_fewer_stay_unknown():
    nodes = [written("a", "w"), written("b", "v"), written("c", "u")]
    mixed = [compiled("a"), compiled("MatMul_7"), compiled("MatMul_9", integer=False)]
    for events in (mixed, mixed[:2]):
        kernels = executed(nodes, None, events)
        assert [kernel.kernel for kernel in kernels.nodes] == ["FullyConnected brgemm_I8", "unknown", "unknown"]
        assert kernels.integer == 1
        assert "cannot be told" in kernels.floats[0].reason


def test_an_empty_file_has_no_fraction():
    assert Kernels(()).fraction is None
