"""Report: one self-contained HTML page from what a run left in its directory."""

from qonnx_pipe.stages.report.page import write_report

__all__ = ["write_report"]
