"""Sessions: open a model on a provider and run it, with onnxruntime's failures as errors that a user can act on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as codes

from qonnx_pipe.core.metadata import SESSION_KEY, WITHOUT_FUSION
from qonnx_pipe.errors import DataError, ModelError, ProviderError
from qonnx_pipe.runtime import providers
from qonnx_pipe.runtime.failures import BAD_FILE, FAILURES, brief, is_out_of_memory
from qonnx_pipe.runtime.machine import cores

Arrays = Mapping[str, npt.NDArray[np.generic]]

ERROR_SEVERITY = 3
"""onnxruntime's log level that lets errors pass, and no warnings."""

WEIGHTS_BESIDE = "session.optimized_model_external_initializers_file_name"
"""Option that keeps the optimized graph small, and below protobuf's 2 GiB for any model."""

ASSIGNMENT = ("session.record_ep_graph_assignment_info", "1")
"""Entry that lets a session tell which provider took which node."""

WITHOUT_FALLBACK = ("session.disable_cpu_ep_fallback", "1")
"""Entry that makes a node which no other provider took an error."""


EARLY = ort.ExecutionOrder.PRIORITY_BASED
"""Of what can run, what stands first in the file, and fused nodes last; by default what the outputs need goes first."""

COMPILED = {"ep.context_enable": "1", "ep.context_embed_mode": "0"}
"""Entries that make a provider write what it compiled: a model of one EPContext node, its binary beside it."""

COMPILED_PATH = "ep.context_file_path"


@dataclass(frozen=True)
class Trace:
    """Where a session leaves what a census reads: the optimized graph, and profiles that begin with a prefix.

    `optimized` None: no graph is written, as a session whose provider compiles cannot.
    """

    optimized: Path | None
    profile_prefix: Path


def open_session(
    model: Path,
    provider: str = "cpu",
    *,
    threads: int | None = None,
    trace: Trace | None = None,
    observed: bool = False,
    fallback: bool = True,
    compiled: Path | None = None,
) -> ort.InferenceSession:
    """A session with every graph optimization on that the file does not forbid; `threads` default to all cores.

    `observed`: a graph that gives out what it has on the way, on inputs of many shapes. What reads a tensor runs before
    the next layer does, so that the tensor's memory is free early; and none is planned for a shape.
    `fallback` off: nodes that another provider than the CPU would leave to the CPU are an error.
    `compiled`: where a provider that compiles leaves what it made.
    A file with SESSION_KEY in its metadata is opened a second time, with the entry that it asks for.

    Raises ModelError when the file is missing, no valid model, or asks for something unknown, ProviderError when the
    provider cannot take it.
    """
    if not model.is_file():
        raise ModelError("no such ONNX file", where=str(model), fix="give the path of a .onnx file")
    options = ort.SessionOptions()
    options.log_severity_level = ERROR_SEVERITY
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = threads or cores()
    options.inter_op_num_threads = 1
    options.enable_mem_pattern = not observed
    options.execution_order = EARLY if observed else ort.ExecutionOrder.DEFAULT
    if not fallback and provider != providers.ALWAYS_HERE:
        options.add_session_config_entry(*WITHOUT_FALLBACK)
    if trace is not None:
        _record(options, trace)
    if compiled is not None:
        for key, value in {**COMPILED, COMPILED_PATH: str(compiled)}.items():
            options.add_session_config_entry(key, value)
    chosen = providers.require(provider)
    arguments = chosen.session_arguments(options)
    try:
        session = ort.InferenceSession(str(model), options, enable_fallback=0, **arguments)
        if entry := session.get_modelmeta().custom_metadata_map.get(SESSION_KEY):
            options.add_session_config_entry(*_known(entry, model))
            session = ort.InferenceSession(str(model), options, enable_fallback=0, **arguments)
    except FAILURES as error:
        bad_file = isinstance(error, BAD_FILE) or brief(error).startswith("Load model from")
        if not bad_file or is_out_of_memory(error):
            raise _provider_failed(provider, model, error) from error
        what, fix = f"onnxruntime cannot load the model: {brief(error)}", "export or copy the file again"
        raise ModelError(what, where=str(model), fix=fix) from error
    if chosen.ep not in session.get_providers():  # onnxruntime leaves out what it cannot load, with a warning
        raise _provider_failed(
            provider, model, RuntimeError("onnxruntime cannot load it: a library or driver is missing")
        )
    return session


def _record(options: ort.SessionOptions, trace: Trace) -> None:
    if trace.optimized is not None:
        options.optimized_model_filepath = str(trace.optimized)
        options.add_session_config_entry(WEIGHTS_BESIDE, f"{trace.optimized.name}.data")
    options.add_session_config_entry(*ASSIGNMENT)
    options.enable_profiling = True
    options.profile_file_prefix = str(trace.profile_prefix)


def run_session(
    session: ort.InferenceSession, inputs: Arrays, *, model: Path, provider: str = "cpu"
) -> dict[str, npt.NDArray[np.generic]]:
    """Outputs by name; `model` and `provider` only name the culprit. Inputs with a default may be left out.

    Raises DataError when the inputs do not fit the model, ProviderError when the run fails.
    """
    wanted = {entry.name for entry in session.get_inputs()}
    if missing := sorted(wanted - inputs.keys()):
        raise DataError(
            f"the model needs the inputs {sorted(wanted)}, without data for {missing}",
            where=str(model),
            fix="give data that hold them, or the tokenizer that belongs to the model",
        )
    names = [entry.name for entry in session.get_outputs()]
    defaults = {entry.name for entry in session.get_overridable_initializers()}
    try:
        values = session.run(names, {name: inputs[name] for name in wanted | (defaults & inputs.keys())})
    except codes.InvalidArgument as error:
        raise DataError(
            f"the inputs do not fit the model: {brief(error)}", where=str(model), fix="check shapes and types"
        ) from error
    except FAILURES as error:
        raise _provider_failed(provider, model, error) from error
    return dict(zip(names, values, strict=True))


def evaluate(model: Path, inputs: Arrays) -> dict[str, npt.NDArray[np.generic]]:
    """Outputs of one run on the CPU in a fresh session; errors as in `open_session` and `run_session`."""
    return run_session(open_session(model), inputs, model=model)


def _known(entry: str, model: Path) -> tuple[str, str]:
    """Key and value of what a file asks of its session; only what this package writes is obeyed."""
    if entry != WITHOUT_FUSION:
        what, fix = f"the file asks for the unknown session entry {entry[:80]!r}", f"remove {SESSION_KEY} from it"
        raise ModelError(what, where=str(model), fix=fix)
    key, _, value = entry.partition("=")
    return key, value


def _provider_failed(provider: str, model: Path, error: BaseException) -> ProviderError:
    return ProviderError(
        f"provider failed: {provider}: {brief(error)}",
        where=str(model),
        fix="see `qpipe inspect` for the model's operators and types, `qpipe providers` for what this machine has",
    )
