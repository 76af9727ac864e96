"""Running min-max: the range is a moving average of batch extremes, so that one odd batch counts little."""

from __future__ import annotations

from qonnx_pipe.core.encoding import EmbeddingGroups
from qonnx_pipe.core.spec import QuantSpec
from qonnx_pipe.core.statistics import SiteStatistics
from qonnx_pipe.observers.groups import pool_range
from qonnx_pipe.observers.protocol import Range, Requirement


class RunningMinMaxObserver:
    """Averages of extremes; they depend on the order and the size of the batches, by definition.

    A whole tensor averages its own extremes; a group takes the widest averages among its dimensions, which are at most
    the average of the group's own extremes.
    """

    requires: Requirement = "running"
    order_independent = False

    def range(self, statistics: SiteStatistics, spec: QuantSpec, groups: EmbeddingGroups | None) -> Range:
        """Averaged extremes of the tensor or of each group."""
        del spec
        running = statistics.running
        if running is None:
            raise ValueError("calibration collected no running min-max here")
        if groups is None:
            return pool_range(running.tensor_minimum, running.tensor_maximum, None)
        return pool_range(running.minimum, running.maximum, groups)
