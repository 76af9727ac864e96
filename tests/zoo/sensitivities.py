"""Sensitivities: what an analysis of a few layers might find, with invented figures."""

from __future__ import annotations

from qonnx_pipe.core.sensitivity import Change, Curvature, Eigenvalue, Matrix, Sensitivity, Slice
from qonnx_pipe.core.times import FLOAT, Times

OWNERS = ("attention.query", "ffn.output")
ELEMENTS = 1000


def invented(layers: int = 4) -> Sensitivity:
    """Two matrices a layer, at two or three bits; later layers cost more, and their curvature is larger."""
    matrices = tuple(
        _matrix(f"layer.{layer}/weight[{owner}]", layer, (1.0 + layer) * (1.6 if owner == "ffn.output" else 1.0))
        for layer in range(layers)
        for owner in OWNERS
    )
    runs = [
        tuple(Eigenvalue(1.0 + layer + shift, 7, 0.2, converged=True) for shift in (0, 1)) for layer in range(layers)
    ]
    curvatures = tuple(Curvature(f"layer {layer}", own, (2.0 + layer, 1.0)) for layer, own in enumerate(runs))
    plane = Slice("layer 3", (5.0, 1.0), (-1.0, 0.0, 1.0), ((1.0, 0.5, 1.0), (0.4, 0.1, 0.4), (1.0, 0.5, 1.2)))
    return Sensitivity(64, "data", 0.3, 5000, matrices, curvatures, (), (plane,))


def timed(found: Sensitivity) -> Times:
    """Times of a model of 20 ms: every matrix takes 1.5 ms in float and 0.5 ms in bits, the rest 4 ms."""
    own = {FLOAT: 1.5, 2: 0.5, 3: 0.5, 4: 0.5, 8: 0.5}
    return Times("cpu", (1, 128), 2, 7, 20.0, 4.0, 0.05, {one.site: own for one in found.matrices})


def _matrix(site: str, layer: int, cost: float) -> Matrix:
    costs = {2: cost * 0.1, 3: cost * 0.02}
    return Matrix(
        site,
        layer,
        ELEMENTS,
        {2: 270, 3: 395},
        {2: 4.0, 3: 1.0},
        {"measured": costs, "taylor": {bits: value * 2 for bits, value in costs.items()}},
        {},
        {bits: Change(value, value / 2, 20.0 - value) for bits, value in costs.items()},
    )
