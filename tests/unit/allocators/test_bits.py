"""Allocations: the exact one against all combinations tried, and never worse than greedy and Q-BERT's rule."""

import time
from itertools import pairwise, product

import numpy as np
import pytest

from qonnx_pipe.allocators.bits import Item, Option, Unmet, exact, front, greedy, qbert
from qonnx_pipe.errors import UsageError


def random_items(rng: np.random.Generator, count: int, widths: tuple[int, ...], scale: float = 1.0) -> list[Item]:
    """Matrices of a few sizes whose cost falls by 4^bits, with noise that lets it rise now and then."""
    items = []
    for index in range(count):
        elements = int(rng.choice([64, 256, 1024]))
        sensitivity = scale * float(rng.lognormal(0, 2))
        options = tuple(
            Option(
                bits,
                sensitivity * 4.0**-bits * float(rng.uniform(0.5, 1.5)),
                {"bits": float(elements * bits), "size": float(elements * bits // 8 + int(rng.integers(1, 64)))},
            )
            for bits in widths
        )
        items.append(Item(f"m{index}", options, index // 3, float(rng.lognormal())))
    return items


def brute(items: list[Item], limits: dict[str, float]) -> float | None:
    """Least cost within the limits over all combinations."""
    best = None
    for combination in product(*(item.options for item in items)):
        used = {name: sum(option.uses[name] for option in combination) for name in limits}
        if all(used[name] <= limit for name, limit in limits.items()):
            cost = sum(option.cost for option in combination)
            best = cost if best is None else min(best, cost)
    return best


@pytest.mark.parametrize("seed", range(6))
def test_exact_finds_what_trying_everything_finds(seed: int) -> None:
    rng = np.random.default_rng(seed)
    items = random_items(rng, 7, (2, 3, 4, 8), scale=10.0 ** rng.integers(-9, 3))
    whole = {name: sum(item.options[-1].uses[name] for item in items) for name in ("bits", "size")}
    limits = {"bits": 0.45 * whole["bits"], "size": 0.4 * whole["size"]}
    expected = brute(items, limits)
    assert expected is not None
    found = exact(items, limits)
    assert found.cost == pytest.approx(expected, rel=1e-6)
    assert all(found.uses[name] <= limits[name] * (1 + 1e-6) for name in limits)


@pytest.mark.parametrize("seed", range(10))
def test_exact_is_never_worse_than_greedy_or_the_rule(seed: int) -> None:
    items = random_items(np.random.default_rng(seed), 24, (2, 3))
    limits = {"bits": 2.5 / 3 * sum(item.options[-1].uses["bits"] for item in items)}
    best = exact(items, limits).cost
    assert best <= greedy(items, limits).cost * (1 + 1e-9)
    assert best <= qbert(items, limits).cost * (1 + 1e-9)


def test_a_budget_that_is_met_exactly() -> None:
    """Half of equal layers at three bits: exactly 2.5 a weight."""
    options = (Option(2, 1.0, {"bits": 200.0}), Option(3, 0.25, {"bits": 300.0}))
    items = [Item(f"m{index}", options, index, float(index)) for index in range(12)]
    for strategy in (exact, greedy, qbert):
        assert strategy(items, {"bits": 3000.0}).uses["bits"] == 3000.0
    assert sorted(name for name, bits in qbert(items, {"bits": 3000.0}).bits.items() if bits == 3) == sorted(
        f"m{index}" for index in range(6, 12)
    )


def test_a_budget_that_cannot_be_met_names_the_least() -> None:
    items = random_items(np.random.default_rng(3), 5, (2, 3))
    least = sum(item.options[0].uses["bits"] for item in items)
    for strategy in (exact, greedy, qbert):
        with pytest.raises(Unmet) as unmet:
            strategy(items, {"bits": least - 1})
        assert unmet.value.nearest == {"bits": least}


def test_the_rule_takes_two_widths_and_whole_layers() -> None:
    items = random_items(np.random.default_rng(5), 12, (2, 3))
    found = qbert(items, {"bits": 2.6 / 3 * sum(item.options[-1].uses["bits"] for item in items)}).bits
    for layer in range(4):
        assert len({found[item.name] for item in items if item.layer == layer}) == 1
    with pytest.raises(UsageError, match="two widths, not 2, 3, 4"):
        qbert(random_items(np.random.default_rng(5), 3, (2, 3, 4)), {"bits": 1e9})


def timed(items: list[Item], rng: np.random.Generator) -> list[Item]:
    """With a float option that costs nothing and takes long, and times that widths do not decide alone."""
    made = []
    for item in items:
        elements = item.options[0].uses["bits"] / item.options[0].bits
        fast = elements * float(rng.uniform(0.8, 1.2))
        options = [Option(one.bits, one.cost, {**one.uses, "latency": fast}) for one in item.options]
        floats = {"bits": 32 * elements, "size": 4 * elements, "latency": fast * float(rng.uniform(2, 4))}
        made.append(Item(item.name, (*options, Option(32, 0.0, floats)), item.layer, item.rank))
    return made


def least_excess(items: list[Item], limits: dict[str, float]) -> float:
    """The least sum of what is used beyond the limits, in shares of the most that can be used."""
    most = {name: sum(max(option.uses[name] for option in item.options) for item in items) for name in limits}
    return min(
        sum(max(0.0, sum(o.uses[name] for o in chosen) - limit) / most[name] for name, limit in limits.items())
        for chosen in product(*(item.options for item in items))
    )


@pytest.mark.parametrize("seed", range(5))
def test_size_and_time_together_against_all_combinations(seed: int) -> None:
    rng = np.random.default_rng(seed)
    items = timed(random_items(rng, 6, (2, 4, 8)), rng)
    slowest = sum(item.options[-1].uses["latency"] for item in items)
    eight_bits = sum(item.options[-2].uses["size"] for item in items)
    limits = {"size": 1.6 * eight_bits, "latency": 0.6 * slowest}
    expected = brute(items, limits)
    assert expected is not None
    found = exact(items, limits)
    assert found.cost == pytest.approx(expected, rel=1e-6)
    assert 32 in found.bits.values()


@pytest.mark.parametrize("seed", range(5))
def test_limits_that_only_together_cannot_be_met(seed: int) -> None:
    """Narrow is slow and wide is fast here; the nearest limits can be met, and none are nearer."""
    rng = np.random.default_rng(seed)
    items = [
        Item(
            f"m{index}",
            tuple(
                Option(bits, 4.0**-bits, {"size": bits * size, "latency": size * float(rng.uniform(1, 2)) / bits})
                for bits in (2, 4, 8)
            ),
        )
        for index, size in enumerate(rng.uniform(50, 200, 5))
    ]
    least = {name: sum(min(o.uses[name] for o in item.options) for item in items) for name in ("size", "latency")}
    limits = {name: 1.2 * amount for name, amount in least.items()}
    assert brute(items, limits) is None
    with pytest.raises(Unmet) as unmet:
        exact(items, limits)
    nearest = dict(unmet.value.nearest)
    most = {name: sum(max(o.uses[name] for o in item.options) for item in items) for name in limits}
    excess = sum((nearest[name] - limits[name]) / most[name] for name in limits)
    assert all(nearest[name] >= limits[name] for name in limits)
    assert excess == pytest.approx(least_excess(items, limits), abs=1e-6)
    assert brute(items, {name: amount * (1 + 1e-9) for name, amount in nearest.items()}) is not None


def test_a_front_keeps_other_limits() -> None:
    rng = np.random.default_rng(2)
    items = timed(random_items(rng, 8, (2, 4, 8)), rng)
    limits = {"size": 1.6 * sum(item.options[-2].uses["size"] for item in items)}
    found = front(items, "latency", exact, points=10, others=limits)
    assert len(found) > 1
    assert all(one.uses["size"] <= limits["size"] * (1 + 1e-6) for one in found)
    assert all(later.cost < earlier.cost for earlier, later in pairwise(found))
    assert front(items, "latency", exact, points=4, others={"size": 1.0}) == ()


def test_the_front_falls() -> None:
    items = random_items(np.random.default_rng(8), 20, (2, 3, 4, 8))
    found = front(items, "size", exact, points=12, others={})
    assert len(found) > 6
    assert [one.uses["size"] for one in found] == sorted(one.uses["size"] for one in found)
    assert all(later.cost < earlier.cost for earlier, later in pairwise(found))


def test_bert_base_takes_less_than_a_second() -> None:
    """72 matrices and 3 tables at 2, 3, 4 and 8 bits. Processor time: the machine may have other things to do."""
    rng = np.random.default_rng(0)
    items = random_items(rng, 75, (2, 3, 4, 8))
    limit = 0.4 * sum(item.options[-1].uses["size"] for item in items)
    exact(items, {"size": limit})  # scipy is imported here
    begin = time.process_time()
    exact(items, {"size": limit})
    assert time.process_time() - begin < 1.0
