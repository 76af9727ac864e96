"""What a plan wants becomes what an NPU can have, and what it cannot is told."""

import pytest

from qonnx_pipe.core.granularity import Granularity, PerChannel, PerEmbeddingGroup, PerGroup, PerTensor
from qonnx_pipe.core.plan import PlanEntry
from qonnx_pipe.core.qtype import QTYPES
from qonnx_pipe.core.site import Role, Site
from qonnx_pipe.core.spec import QuantSpec
from qonnx_pipe.graph.npu.legal import adapted

GROUPS = PerEmbeddingGroup(4)


def adapt(role: Role, spec: QuantSpec | None) -> tuple[PlanEntry, list[str]]:
    entry, skipped = adapted(PlanEntry(Site("s", role, 0, "t", 32, ()), spec, "qdq", "activations"))
    assert {skip.site for skip in skipped} <= {"s"}
    return entry, [skip.reason for skip in skipped]


def spec(dtype: str, granularity: Granularity = PerTensor(), *, symmetric: bool = False) -> QuantSpec:  # noqa: B008
    return QuantSpec(QTYPES[dtype], granularity, symmetric)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_what_it_can_have_stays(dtype: str) -> None:
    entry, notes = adapt(Role.FFN_ACTIVATION, spec(dtype))
    assert (entry.spec, entry.lowering, notes) == (spec(dtype), "qdq", [])


def test_groups_fold_in_the_stream_and_are_one_scale_elsewhere() -> None:
    entry, notes = adapt(Role.RESIDUAL_SUM, spec("uint8", GROUPS))
    assert (entry.spec.granularity, entry.lowering, notes) == (GROUPS, "fold", [])
    entry, (note,) = adapt(Role.ATTENTION_CONTEXT, spec("uint8", GROUPS))
    assert (entry.spec.granularity, entry.lowering) == (PerTensor(), "qdq")
    assert note == "one scale: groups can be had in the residual stream alone"


@pytest.mark.parametrize(("role", "dtype"), [(Role.FFN_INPUT, "uint16"), (Role.WEIGHT, "int8")])
def test_float_is_the_most_it_can_have(role: Role, dtype: str) -> None:
    entry, (note,) = adapt(role, None)
    assert entry.spec.dtype.name == dtype
    assert "float" in note


@pytest.mark.parametrize(("dtype", "becomes"), [("int8", "uint8"), ("uint4", "uint8"), ("int16", "uint16")])
def test_other_types_of_activations_become_the_next(dtype: str, becomes: str) -> None:
    entry, (note,) = adapt(Role.FFN_INPUT, spec(dtype))
    assert entry.spec == spec(becomes)
    assert note == f"{dtype}: an NPU takes asymmetric uint8, uint16"


@pytest.mark.parametrize("granularity", [PerTensor(), PerChannel(1)])
def test_weights_have_a_scale_or_one_a_channel(granularity: Granularity) -> None:
    wanted = spec("int8", granularity, symmetric=True)
    entry, notes = adapt(Role.WEIGHT, wanted)
    assert (entry.spec, notes) == (wanted, [])


def test_other_weights_are_told() -> None:
    entry, notes = adapt(Role.WEIGHT, spec("int4", PerGroup(0, 16), symmetric=True))
    assert entry.spec == spec("int8", PerChannel(1), symmetric=True)
    assert [note.partition(":")[0] for note in notes] == ["int4", "scales along the inputs have no kernel"]


def test_a_table_has_one_scale() -> None:
    entry, notes = adapt(Role.EMBEDDING_WORD, spec("int8", PerChannel(0), symmetric=True))
    assert (entry.spec.granularity, entry.lowering, notes) == (PerTensor(), "gather_dq", [])
