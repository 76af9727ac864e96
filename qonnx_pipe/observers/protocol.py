"""Observer: what every range estimator looks like, so that one contract suite tests them all."""

from __future__ import annotations

from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from qonnx_pipe.core.encoding import EmbeddingGroups
from qonnx_pipe.core.spec import QuantSpec
from qonnx_pipe.core.statistics import SiteStatistics

Bound = npt.NDArray[np.float64]
Range = tuple[Bound, Bound]
"""(low, high), each of shape () for a whole tensor or (K,) for K groups; low ≤ 0 ≤ high."""

Requirement = Literal["minmax", "running", "histogram", "samples"]
"""The field of `SiteStatistics` that an observer reads; all of them also read `minmax`, which is always there."""


class Observer(Protocol):
    """A pure function from statistics to a range, and what it needs from calibration.

    `order_independent` promises the same range for any order of the data and any cut into batches.
    """

    @property
    def requires(self) -> Requirement:
        """Statistics that calibration must have collected."""

    @property
    def order_independent(self) -> bool:
        """Whether batches may come in any order and size."""

    def range(self, statistics: SiteStatistics, spec: QuantSpec, groups: EmbeddingGroups | None) -> Range:
        """Range of the whole tensor (groups None) or of each group; it holds 0 and is never wider than what was seen.

        Raises ValueError when a required statistic is missing or has another width than the groups, or for groups where
        the observer knows only whole tensors.
        """
