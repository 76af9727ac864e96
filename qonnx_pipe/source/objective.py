"""Objective: the mean cross-entropy of a network's class scores on labelled batches, as losses to differentiate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from qonnx_pipe.core.examples import Array
from qonnx_pipe.core.targets import IGNORED, Targets, rows
from qonnx_pipe.source.hessian import Loss
from qonnx_pipe.source.network import GraphModule

Labelled = tuple[Mapping[str, Array], Targets]
"""Inputs of one batch, and the classes that its scores should have."""


def losses(module: GraphModule, parts: Sequence[Labelled]) -> list[Loss]:
    """One loss a part; their sum is the mean cross-entropy over all rows that count, in nats."""
    count = sum(rows(targets) for _, targets in parts)
    return [lambda part=part: _loss(module, part) / count for part in parts]  # type: ignore[misc]


def _loss(module: GraphModule, part: Labelled) -> Tensor:
    inputs, targets = part
    found = module({name: torch.from_numpy(array) for name, array in inputs.items()})
    total = torch.zeros(())
    for name, wanted in targets.items():
        scores = found[name]
        total = total + torch.nn.functional.cross_entropy(
            scores.reshape(-1, scores.shape[-1]),
            torch.from_numpy(wanted).reshape(-1),
            ignore_index=IGNORED,
            reduction="sum",
        )
    return total
