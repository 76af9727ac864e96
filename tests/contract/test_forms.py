"""Every form of one annotation passes on the numbers that `core.numerics` says, to linear layers and to all others."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
from onnx import helper

from qonnx_pipe.core.encoding import EmbeddingGroups, Encoding, Windows
from qonnx_pipe.core.granularity import PerTensor
from qonnx_pipe.core.numerics import fake_quantize, scale_and_zero_point
from qonnx_pipe.core.plan import Lowering, QuantPlan
from qonnx_pipe.core.qtype import QTYPES
from qonnx_pipe.runtime.session import evaluate
from tests.unit.graph.lowerings.tiny import WIDTH, activation, outliers, quantized, weight
from tests.zoo import graphs

SHUFFLED = tuple(np.random.default_rng(3).permutation(WIDTH).tolist())
X = outliers(2, 5, WIDTH)


@dataclass(frozen=True)
class Form:
    """One way to write an annotation, and what it computes with, group sizes or windows."""

    name: str
    lowering: Lowering
    sizes: Sequence[int] = ()
    order: tuple[int, ...] = tuple(range(WIDTH))

    def encoding(self, dtype: str) -> Encoding:
        """Min-max ranges of X; with windows, the range of what is no outlier."""
        kind, seen = QTYPES[dtype], X.reshape(-1, WIDTH)
        if self.lowering == "expand":
            scale, zero = scale_and_zero_point(-40, 40, kind, symmetric=False)
            return Encoding(kind, Windows(WIDTH, (5, 5, 20, 20), (-1, 1, 1, -1)), scale, zero)
        if not self.sizes:
            return Encoding(kind, PerTensor(), *scale_and_zero_point(seen.min(), seen.max(), kind, symmetric=False))
        groups = EmbeddingGroups(tuple(self.sizes), self.order)
        ends = np.cumsum(self.sizes)
        parts = [seen[:, list(self.order[end - size : end])] for size, end in zip(self.sizes, ends, strict=True)]
        bounds = [part.min() for part in parts], [part.max() for part in parts]
        return Encoding(kind, groups, *scale_and_zero_point(*bounds, kind, symmetric=False))


FORMS = [
    Form("per_tensor", "qdq"),
    Form("per_tensor_reference", "reference"),
    Form("split", "split", (12, 10, 10)),
    Form("split_permuted", "split", (30, 2), SHUFFLED),
    Form("split_reference", "reference", (30, 2), SHUFFLED),
    Form("scaled_rows", "split", (1,) * WIDTH, SHUFFLED),
    Form("scaled_rows_of_groups", "split", (2,) * 14 + (1,) * 4, SHUFFLED),
    Form("scaled_rows_reference", "reference", (1,) * WIDTH, SHUFFLED),
    Form("expand", "expand"),
]


def identity(path):
    """x + 0 = s is the site; y = s · I, so that y shows what a linear layer reads; o = −s what others do."""
    shape = ["batch", "sequence", WIDTH]
    nodes = [
        helper.make_node("Identity", ["x"], ["s"], "start"),
        helper.make_node("MatMul", ["s", "eye"], ["y"], "linear"),
        helper.make_node("Neg", ["s"], ["o"], "other"),
    ]
    outputs = [graphs.tensor(name, shape) for name in "yo"]
    return graphs.save(path, nodes, [graphs.tensor("x", shape)], outputs, {"eye": np.eye(WIDTH, dtype=np.float32)})


@pytest.mark.parametrize("linear", ["integer", "qdq"])
@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint6"])
@pytest.mark.parametrize("form", FORMS, ids=[form.name for form in FORMS])
def test_codes_are_numpys_within_one_step(tmp_path, form, dtype, linear):
    encoding = form.encoding(dtype)
    entries = (replace(activation("s", "linear"), lowering=form.lowering), weight("eye", "linear", lowering=linear))
    path = quantized(identity(tmp_path / "m.onnx"), QuantPlan("cpu", "full", entries), {"s": encoding})
    found = evaluate(path, {"x": X})
    expected = fake_quantize(X, encoding)
    groups = encoding.granularity
    step = encoding.scale[groups.group_of_dimension()] if isinstance(groups, EmbeddingGroups) else encoding.scale
    # The identity's codes are 127 of 127: only float32 rounds, of sums that reach 255 steps.
    off = np.abs(found["y"] - expected) / step
    assert off.max() <= 1 + 1e-3
    assert np.mean(off > 1e-3) <= 0.005
    np.testing.assert_allclose(-found["o"], expected, rtol=0, atol=0 if form.lowering != "expand" else 1e-3)
