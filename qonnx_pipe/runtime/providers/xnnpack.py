"""XNNPACK: kernels for Arm and x86 processors, in builds of onnxruntime for phones and in no package for Python."""

from __future__ import annotations

from dataclasses import dataclass

import onnxruntime as ort

from qonnx_pipe.runtime.bundled import Bundled
from qonnx_pipe.runtime.needs import Needs


@dataclass(frozen=True, kw_only=True)
class _Xnnpack(Bundled):
    def settings(self, options: ort.SessionOptions) -> dict[str, str]:
        threads = options.intra_op_num_threads
        options.intra_op_num_threads = 1  # it has threads of its own, which onnxruntime's would disturb
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        return {"intra_op_num_threads": str(threads)}


PROVIDER = _Xnnpack(
    name="xnnpack",
    title="XNNPACK (Arm and x86 processors)",
    ep="XnnpackExecutionProvider",
    requirements=(),
    needs=Needs({}),
    int8="none",
)
