"""Quantized weights: each matrix at each width it may have, its error and the bytes it takes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qonnx_pipe.core.encoding import Encoding, FloatArray
from qonnx_pipe.core.granularity import PerGroup
from qonnx_pipe.core.numerics import dequantize
from qonnx_pipe.core.plan import PlanEntry
from qonnx_pipe.core.sensitivity import Matrix
from qonnx_pipe.core.site import Site
from qonnx_pipe.core.spec import QuantSpec
from qonnx_pipe.graph import io
from qonnx_pipe.graph.sampled import matrix
from qonnx_pipe.observers.weights import encode_weight, quantize_weight

Specs = Mapping[Site, Mapping[int, QuantSpec]]


@dataclass(frozen=True)
class Weights:
    """The float weights [in, out] and tables of a model, and what their specs make of them."""

    model: io.Model
    specs: Specs

    @classmethod
    def of(cls, path: Path, specs: Specs) -> Weights:
        """Those of a file; errors as in `io.load`."""
        return cls(io.load(path), specs)

    def encoded(self, site: Site, spec: QuantSpec) -> tuple[Encoding, FloatArray]:
        """The encoding of a weight, and the values that its nearest codes stand for."""
        weight = matrix(self.model, site)
        encoding = encode_weight(weight, spec, site=site.id)
        return encoding, dequantize(quantize_weight(weight, encoding), encoding)

    def variants(self) -> Iterator[tuple[Site, int, FloatArray]]:
        """Every matrix at every width."""
        for site, by_bits in self.specs.items():
            for bits, spec in by_bits.items():
                yield site, bits, self.encoded(site, spec)[1]

    def error(self, site: Site, bits: int) -> FloatArray:
        """Δ, quantized less float."""
        return np.asarray(self.encoded(site, self.specs[site][bits])[1] - matrix(self.model, site), np.float32)

    def matrices(self) -> Iterator[Matrix]:
        """Sizes and squared errors, with nothing estimated yet."""
        for site, by_bits in self.specs.items():
            weight = matrix(self.model, site)
            sizes, errors = dict[int, int](), dict[int, float]()
            for bits, spec in by_bits.items():
                encoding, values = self.encoded(site, spec)
                sizes[bits] = stored_bytes(encoding, weight.size)
                errors[bits] = float(np.square(values - weight, dtype=np.float64).sum())
            yield Matrix(site.id, site.layer, weight.size, sizes, errors)

    def rest(self, file_bytes: int, others: Sequence[PlanEntry]) -> int:
        """Bytes of the file beside the matrices, `others` quantized as their plan says."""
        left = file_bytes - sum(matrix(self.model, site).nbytes for site in self.specs)
        for entry in others:
            if entry.spec is not None:
                weight = matrix(self.model, entry.site)
                left += stored_bytes(self.encoded(entry.site, entry.spec)[0], weight.size) - weight.nbytes
        return left


def stored_bytes(encoding: Encoding, elements: int) -> int:
    """Bytes of packed codes, scales (float16 for blocks along the inputs, else float32) and zero points."""
    codes = -(-elements * encoding.dtype.bits // 8)
    scales = encoding.scale.size * (2 if isinstance(encoding.granularity, PerGroup) else 4)
    points = -(-encoding.scale.size * encoding.dtype.bits // 8) if np.any(encoding.zero_point) else 0
    return codes + scales + points
