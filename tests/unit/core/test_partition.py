"""A partition counts what its provider took, and survives JSON."""

import json

from qonnx_pipe.core.partition import Fallback, Partition

MIXED = Partition(20, 3, (Fallback("Attention", "CPUExecutionProvider", 6), Fallback("Gather", "Other", 1)))


def test_what_did_not_fall_back_was_taken():
    assert MIXED.assigned == 13
    assert Partition(5, 1).assigned == 5


def test_json_says_all_and_comes_back():
    data = json.loads(json.dumps(MIXED.to_json()))
    assert (data["nodes"], data["assigned"], data["subgraphs"]) == (20, 13, 3)
    assert Partition.from_json(data) == MIXED
