"""A budget becomes bits: in the budget's own units, with the nearest that can be where it cannot, and as rules."""

import pytest
from ruamel.yaml import YAML

from qonnx_pipe.errors import GateFailed, UsageError
from qonnx_pipe.recipe.budget import Budget
from qonnx_pipe.stages.allocate import allocate, rules, share_out
from tests.zoo.sensitivities import invented, timed


def test_mean_bits() -> None:
    found = invented()
    chosen = share_out(found, Budget(bits=2.5), signed=True).chosen
    assert chosen.amounts["bits"] == 2.5
    assert sorted(site for site, bits in chosen.bits.items() if bits == 3) == sorted(
        one.site for one in sorted(found.matrices, key=lambda one: one.costs["taylor"][3] - one.costs["taylor"][2])[:4]
    )


def test_bytes_of_the_file_count_the_rest() -> None:
    """5000 bytes beside eight matrices of 270 or 395: of 8000, room for six wide ones."""
    chosen = share_out(invented(), Budget(size="8kB"), signed=True).chosen
    assert sorted(chosen.bits.values()) == [2, 2, 3, 3, 3, 3, 3, 3]
    assert chosen.amounts["size"] == 5000 + 2 * 270 + 6 * 395


def test_q_berts_rule_takes_layers_by_their_curvature() -> None:
    budget = Budget(bits=2.5, choices=(2, 3), strategy="qbert")
    wide = {site.split("/")[0] for site, bits in allocate(invented(), budget).bits.items() if bits == 3}
    assert wide == {"layer.2", "layer.3"}


@pytest.mark.parametrize(
    ("budget", "nearest"),
    [({"bits": 1.7}, "bits=2.00"), ({"size": "7kB"}, "size=7.16kB"), ({"size": "2kB"}, "size=7.16kB")],
)
def test_what_cannot_be_met(budget: dict[str, object], nearest: str) -> None:
    with pytest.raises(GateFailed, match="cannot be met") as failure:
        allocate(invented(), Budget(**budget))
    assert f"the nearest that can: {nearest}" in failure.value.fix
    assert failure.value.exit_code == 1


@pytest.mark.parametrize(("latency", "floats"), [("16ms", 8), ("14ms", 6), ("0.6x", 4), ("8ms", 0)])
def test_what_stays_float_within_a_time(latency: str, floats: int) -> None:
    """Eight matrices of 1.5 ms in float and 0.5 ms in bits, beside 4 ms; 20 ms in float: the costly ones stay."""
    found = invented()
    shared = share_out(found, Budget(latency=latency, choices=(2, 3, "float")), signed=True, times=timed(found))
    kept = sorted(site for site, bits in shared.chosen.bits.items() if bits == 32)
    ranked = sorted(found.matrices, key=lambda one: -one.costs["measured"][3])
    assert kept == sorted(one.site for one in ranked[:floats])
    assert shared.chosen.amounts["latency"] == pytest.approx(4 + 8 * 0.5 + floats)
    assert shared.front[-1].cost == 0.0
    assert [one.amounts["latency"] for one in shared.front] == sorted(one.amounts["latency"] for one in shared.front)
    assert ("dtype: float" in shared.rules) == bool(floats)


def test_size_and_time_together() -> None:
    """Of 16 kB two matrices may stay float, by the time six."""
    found = invented()
    budget = Budget(latency="14ms", size="16kB", choices=(2, 3, "float"))
    shared = share_out(found, budget, signed=True, times=timed(found))
    assert sorted(shared.chosen.bits.values()) == [3, 3, 3, 3, 3, 3, 32, 32]
    assert shared.chosen.amounts["size"] == 5000 + 6 * 395 + 2 * 4000
    assert all(one.amounts["size"] <= 16_000 for one in shared.front)


def test_a_latency_lets_weights_stay_float_unless_choices_say_otherwise() -> None:
    assert Budget(latency="8ms").leaves_float
    assert Budget(latency="8ms").widths == Budget(bits=3).widths == (2, 3, 4, 8)
    assert not Budget(latency="8ms", choices=(4, 8)).leaves_float
    assert not Budget(bits=3).leaves_float


@pytest.mark.parametrize(
    ("budget", "nearest"),
    [
        ({"latency": "7ms"}, "latency=8.00ms"),
        ({"latency": "0.333x"}, "latency=0.40x"),
        ({"latency": "8ms", "size": "7kB"}, "size=7.16kB latency=8.00ms"),
    ],
)
def test_a_time_that_cannot_be_met(budget: dict[str, object], nearest: str) -> None:
    found = invented()
    with pytest.raises(GateFailed, match="cannot be met") as failure:
        allocate(found, Budget(**budget), timed(found))
    assert f"the nearest that can: {nearest};" in failure.value.fix


def test_weights_that_were_not_timed() -> None:
    with pytest.raises(UsageError, match="not timed"):
        allocate(invented(), Budget(latency="8ms"))


def test_what_was_not_estimated() -> None:
    with pytest.raises(UsageError, match="trace was not estimated"):
        allocate(invented(), Budget(bits=2.5, estimator="trace"))


def test_rules_say_the_same_in_few_words() -> None:
    bits = {
        one.site: 3 if one.layer == 1 or one.site == "layer.0/weight[ffn.output]" else 2 for one in invented().matrices
    }
    assert YAML(typ="safe").load(rules(invented(), bits)) == {
        "rules": [
            {"match": {"node": ["layer.0/weight[attention.query]"]}, "weights": {"dtype": "int2"}},
            {"match": {"role": "weight", "layer": [2, 3]}, "weights": {"dtype": "int2"}},
            {"match": {"node": ["layer.0/weight[ffn.output]"]}, "weights": {"dtype": "int3"}},
            {"match": {"role": "weight", "layer": [1]}, "weights": {"dtype": "int3"}},
        ]
    }
