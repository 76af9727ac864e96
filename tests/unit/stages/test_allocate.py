"""A budget becomes bits: in the budget's own units, with the nearest that can be where it cannot, and as rules."""

import pytest
from ruamel.yaml import YAML

from qonnx_pipe.errors import GateFailed, UsageError
from qonnx_pipe.recipe.budget import Budget
from qonnx_pipe.stages.allocate import allocate, rules, share_out
from tests.zoo.sensitivities import invented


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
