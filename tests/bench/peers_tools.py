"""Tools: what makes one peer's int8 file, run in the peer's environment: peers_tools.py TOOL FLOAT BATCHES TARGET.

Nothing of qonnx_pipe is imported, and each tool's packages only where it is called. BATCHES is an .npz of arrays called
"number/input". Settings are what each tool's documentation shows for a transformer on this processor.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

Batches = list[dict[str, Any]]


def read_batches(file: Path) -> Batches:
    """Inputs by name, batch by batch."""
    with np.load(file) as stored:
        arrays = {name: stored[name] for name in stored.files}
    found: Batches = [{} for _ in {name.partition("/")[0] for name in arrays}]
    for key, values in arrays.items():
        number, _, name = key.partition("/")
        found[int(number)][name] = values
    return found


def ort_static(model: Path, batches: Batches, target: Path) -> None:
    """ONNX Runtime's quantize_static as it comes: default operators and types."""
    from onnxruntime.quantization import quantize_static

    quantize_static(model, target, _Reader(batches))


def ort_static_matmul(model: Path, batches: Batches, target: Path) -> None:
    """quantize_static of MatMuls alone, unsigned activations by signed weights per channel: what VNNI wants."""
    from onnxruntime.quantization import QuantType, quantize_static

    quantize_static(
        model,
        target,
        _Reader(batches),
        op_types_to_quantize=["MatMul", "Gemm"],
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )


def ort_dynamic(model: Path, batches: Batches, target: Path) -> None:
    """quantize_dynamic, per channel."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(model, target, per_channel=True, weight_type=QuantType.QInt8)


def optimum_static(model: Path, batches: Batches, target: Path) -> None:
    """optimum's ORTQuantizer for avx512_vnni, static and per channel; it calibrates text by text."""
    from datasets import Dataset
    from optimum.onnxruntime import ORTQuantizer
    from optimum.onnxruntime.configuration import AutoCalibrationConfig, AutoQuantizationConfig

    rows = [
        {name: values[i].tolist() for name, values in batch.items()}
        for batch in batches
        for i in range(len(next(iter(batch.values()))))
    ]
    texts = Dataset.from_list(rows)
    config = AutoQuantizationConfig.avx512_vnni(is_static=True, per_channel=True)
    quantizer = ORTQuantizer(model)
    ranges = quantizer.fit(
        texts, AutoCalibrationConfig.minmax(texts), operators_to_quantize=config.operators_to_quantize
    )
    _optimum(quantizer, config, target, calibration_tensors_range=ranges)


def optimum_dynamic(model: Path, batches: Batches, target: Path) -> None:
    """optimum's ORTQuantizer for avx512_vnni, dynamic and per channel."""
    from optimum.onnxruntime import ORTQuantizer
    from optimum.onnxruntime.configuration import AutoQuantizationConfig

    config = AutoQuantizationConfig.avx512_vnni(is_static=False, per_channel=True)
    _optimum(ORTQuantizer(model), config, target)


def nncf_onnx(model: Path, batches: Batches, target: Path) -> None:
    """NNCF's post-training quantization of the ONNX file, for transformers.

    Written in opset 20: in 21, onnxruntime 1.31 refuses what its own optimizer makes of signed quantizers.
    """
    import nncf
    import onnx
    from onnx.version_converter import convert_version

    settings = {"model_type": nncf.ModelType.TRANSFORMER, "subset_size": len(batches)}
    quantized = nncf.quantize(onnx.load(model), nncf.Dataset(batches), **settings)
    onnx.save(convert_version(quantized, 20), target)


def nncf_openvino(model: Path, batches: Batches, target: Path) -> None:
    """The same of OpenVINO's own form of the model."""
    import nncf
    import openvino

    settings = {"model_type": nncf.ModelType.TRANSFORMER, "subset_size": len(batches)}
    quantized = nncf.quantize(openvino.convert_model(model), nncf.Dataset(batches), **settings)
    openvino.save_model(quantized, target, compress_to_fp16=False)


class _Reader:
    """Batches as ONNX Runtime's calibration asks for them."""

    def __init__(self, batches: Batches) -> None:
        self._rest: Iterator[dict[str, Any]] = iter(batches)

    def get_next(self) -> dict[str, Any] | None:
        """The next batch's inputs; None at the end."""
        return next(self._rest, None)


def _optimum(quantizer: Any, config: Any, target: Path, **more: object) -> None:
    """optimum chooses the file's name itself."""
    made = quantizer.quantize(config, save_dir=target.with_suffix(""), file_suffix="", **more)
    next(Path(made).glob("*.onnx")).rename(target)


TOOLS: Mapping[str, Callable[[Path, Batches, Path], None]] = {
    tool.__name__: tool
    for tool in (
        ort_static,
        ort_static_matmul,
        ort_dynamic,
        optimum_static,
        optimum_dynamic,
        nncf_onnx,
        nncf_openvino,
    )
}

if __name__ == "__main__":
    name, source, data, made = sys.argv[1:]
    TOOLS[name](Path(source), read_batches(Path(data)), Path(made))
