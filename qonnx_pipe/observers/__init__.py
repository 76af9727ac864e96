"""Range estimators: statistics → [low, high], pure numpy, one file each, found by name in `OBSERVERS`."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from qonnx_pipe.core.spec import RangeMethod
from qonnx_pipe.observers.cross_entropy import CrossEntropyObserver
from qonnx_pipe.observers.entropy import EntropyObserver
from qonnx_pipe.observers.golden_section import golden_section
from qonnx_pipe.observers.grid import grid
from qonnx_pipe.observers.minmax import MinMaxObserver
from qonnx_pipe.observers.mse import MseObserver
from qonnx_pipe.observers.percentile import PercentileObserver
from qonnx_pipe.observers.protocol import Observer
from qonnx_pipe.observers.running import RunningMinMaxObserver

OBSERVERS: Mapping[RangeMethod, Observer] = MappingProxyType(
    {
        "minmax": MinMaxObserver(),
        "running_minmax": RunningMinMaxObserver(),
        "mse": MseObserver(),
        "mse_grid": MseObserver(grid),
        "golden_section": MseObserver(golden_section),
        "percentile": PercentileObserver(),
        "entropy": EntropyObserver(),
        "cross_entropy": CrossEntropyObserver(),
    }
)
"""Every range method of a recipe by its name."""
