"""Report: one self-contained HTML page from what a run left in its directory, or about several runs."""

from qonnx_pipe.stages.report.compare import write_comparison
from qonnx_pipe.stages.report.page import write_report

__all__ = ["write_comparison", "write_report"]
