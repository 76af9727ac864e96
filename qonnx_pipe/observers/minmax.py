"""Min-max: the range is everything that was seen."""

from __future__ import annotations

from qonnx_pipe.core.encoding import EmbeddingGroups
from qonnx_pipe.core.spec import QuantSpec
from qonnx_pipe.core.statistics import SiteStatistics
from qonnx_pipe.observers.groups import pool_range
from qonnx_pipe.observers.protocol import Range, Requirement


class MinMaxObserver:
    """Smallest and largest value: no clipping, one outlier takes the whole scale."""

    requires: Requirement = "minmax"
    order_independent = True

    def range(self, statistics: SiteStatistics, spec: QuantSpec, groups: EmbeddingGroups | None) -> Range:
        """Extremes of the tensor or of each group."""
        del spec
        return pool_range(statistics.minmax.minimum, statistics.minmax.maximum, groups)
