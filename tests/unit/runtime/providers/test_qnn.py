"""QNN's own profile becomes events; the simulator is called one."""

from pathlib import Path

from qonnx_pipe.core.kernels import Event
from qonnx_pipe.runtime.providers import qnn

PROFILE = """\
Msg Timestamp,Message,Time,Unit of Measurement,Timing Source,Event Level,Event Identifier
1,ROOT,900,US,BACKEND,ROOT,QNN (execute) time
2,NODE,3000,CYCLES,BACKEND,SUB-EVENT,dense/MatMul:OpId_7 (cycles)
3,NODE,5000,CYCLES,BACKEND,SUB-EVENT,dense/MatMul:OpId_7 (cycles)
4,NODE,8000,CYCLES,BACKEND,SUB-EVENT,a:b/Add:OpId_8 (cycles)
5,NODE,1,CYCLES,BACKEND,SUB-EVENT,Input OpId_2 (cycles)
"""


def test_events_are_the_operators_and_their_cycles_are_no_time(tmp_path: Path) -> None:
    (tmp_path / f"profile_1_{qnn.PROFILE}").write_text(PROFILE, encoding="utf-8")
    assert qnn.PROVIDER.events([], tmp_path) == (
        Event("dense/MatMul", "HTP", qnn.EP, None, integer=True),
        Event("a:b/Add", "HTP", qnn.EP, None, integer=True),
    )


def test_without_a_profile_there_are_no_events(tmp_path: Path) -> None:
    assert qnn.PROVIDER.events([], tmp_path) == ()


def test_it_says_what_it_is() -> None:
    assert qnn.PROVIDER.static
    if qnn.PROVIDER.simulated:
        assert qnn.PROVIDER.device() == "simulator of the NPU (HTP v73)"
