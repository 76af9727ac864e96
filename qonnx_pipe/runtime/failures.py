"""Failures: everything that onnxruntime raises, which shares no base class, and what it says in brief."""

from __future__ import annotations

import re

from onnxruntime.capi import onnxruntime_pybind11_state as codes

BAD_FILE = (codes.NoSuchFile, codes.InvalidProtobuf, codes.InvalidGraph, codes.NoModel)
FAILURES = (
    codes.Fail,
    codes.InvalidArgument,
    codes.RuntimeException,
    codes.NotImplemented,
    codes.EPFail,
    codes.EngineError,
    *BAD_FILE,
    RuntimeError,
    ValueError,
    MemoryError,
)


PREAMBLE = re.compile(r"^(\[ONNXRuntimeError\] : \d+ : \w+ : )?(/\S+\.(cc|h):\d+ .*?\)( const)? )?")
"""What onnxruntime puts before its message: a code, and the place in its own source."""


def brief(error: BaseException) -> str:
    """First line of onnxruntime's message, without the code and place before it; "out of memory" where it was."""
    text = str(error).strip().splitlines() or [type(error).__name__]
    told = PREAMBLE.sub("", text[0])[:500]
    return f"out of memory: {told}" if is_out_of_memory(error) else told


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory was refused: C++ and the operating system say so in words."""
    words = ("bad_alloc", "Cannot allocate memory", "Failed to allocate memory")
    return isinstance(error, MemoryError) or any(word in str(error) for word in words)
