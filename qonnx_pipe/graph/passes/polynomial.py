"""What a few elementwise nodes compute, read as a polynomial in two values."""

from __future__ import annotations

import math
from collections.abc import Mapping

import onnx_ir as ir

from qonnx_pipe.graph.constants import scalar

Monomial = tuple[int, int]
Polynomial = Mapping[Monomial, float]
"""Powers of the two values → coefficient."""

HIGHEST_POWER = 4
_DEPTH = 8
_TOLERANCE = 1e-4
"""Exporters round constants to 5 digits or more; the result's relative error is of that size at most."""


def polynomial(value: ir.Value | None, symbols: Mapping[ir.Value, Monomial], depth: int = _DEPTH) -> Polynomial | None:
    """`value` as a polynomial in `symbols`; None when it holds anything but sums, products, quotients and powers."""
    if value is None or depth == 0:
        return None
    if value in symbols:
        return {symbols[value]: 1.0}
    if (number := scalar(value)) is not None:
        return {(0, 0): number}
    node = value.producer()
    if node is None or len(node.inputs) != 2 or node.domain not in ("", "ai.onnx"):
        return None
    left, right = (polynomial(source, symbols, depth - 1) for source in node.inputs)
    return None if left is None or right is None else _combined(node.op_type, left, right)


def is_close(found: Polynomial | None, wanted: Polynomial) -> bool:
    """Whether both have the same monomials with coefficients equal to four digits."""
    return (
        found is not None
        and found.keys() == wanted.keys()
        and all(math.isclose(found[powers], wanted[powers], rel_tol=_TOLERANCE) for powers in wanted)
    )


def _combined(operator: str, left: Polynomial, right: Polynomial) -> Polynomial | None:
    number = right[0, 0] if right.keys() == {(0, 0)} else 0.0
    result: Polynomial | None = None
    match operator:
        case "Add":
            result = _sum(left, right)
        case "Sub":
            result = _sum(left, _product(right, {(0, 0): -1.0}))
        case "Mul":
            result = _product(left, right)
        case "Div" if number:
            result = _product(left, {(0, 0): 1.0 / number})
        case "Pow" if number in range(1, HIGHEST_POWER + 1):
            result = _power(left, int(number))
    return result


def _sum(a: Polynomial, b: Polynomial) -> Polynomial:
    total = {powers: a.get(powers, 0.0) + b.get(powers, 0.0) for powers in (*a, *b)}
    return {powers: coefficient for powers, coefficient in total.items() if coefficient}


def _product(a: Polynomial, b: Polynomial) -> Polynomial:
    total: Polynomial = {}
    for (i, j), c in a.items():
        total = _sum(total, {(i + k, j + m): c * d for (k, m), d in b.items()})
    return total


def _power(base: Polynomial, exponent: int) -> Polynomial:
    result: Polynomial = {(0, 0): 1.0}
    for _ in range(exponent):
        result = _product(result, base)
    return result
