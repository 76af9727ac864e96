"""Scaling a stretch of the residual stream changes no result, gives the tensors that were asked for, at a told cost."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from qonnx_pipe.core.affine import Affine
from qonnx_pipe.graph import io
from qonnx_pipe.graph.lowerings.emit import Emitter
from qonnx_pipe.graph.npu.form import npu_form
from qonnx_pipe.graph.npu.stream import Scaled, Stretch, scale, stretches
from tests.unit.graph.npu import tiny

CLOSE = {"rtol": 1e-3, "atol": 2e-4}
"""float32 sums of 16 terms whose dimensions were taken two decades apart and back: 1e-7 · 10² · 16."""


def affine(seed: int) -> Affine:
    """Scales over two decades, and shifts of the size of the tensor."""
    rng = np.random.default_rng(seed)
    return Affine(np.exp(rng.normal(0, 1, tiny.D)), rng.normal(0, 1, tiny.D))


def found(tmp_path: Path, **options: object) -> tuple[Path, ir.Model, list[Stretch]]:
    """The form in a file, and loaded with its stretches."""
    model = io.load(tiny.Encoder(**options).save(tmp_path / "float.onnx"))
    npu_form(model, tiny.SHAPE)
    io.save(model, tmp_path / "form.onnx")
    return tmp_path / "form.onnx", model, list(stretches(model.graph))


def saved(model: ir.Model, path: Path) -> Path:
    model.graph.sort()
    io.save(model, path)
    onnx.checker.check_model(path, full_check=True)
    return path


def operators(path: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(path).graph.node)


def test_every_sum_of_an_encoder_ends_a_stretch(tmp_path: Path) -> None:
    _, _, all_of_them = found(tmp_path, layers=2)
    names = [tuple(value.name for value in stretch.tensors) for stretch in all_of_them]
    assert [(x, y) for x, _, y in names] == [
        ("embedded", "l0.u"),
        ("l0.x", "l0.y"),
        ("l0.z", "l1.u"),
        ("l1.x", "l1.y"),
    ]
    assert [stretch.branch.name for stretch in all_of_them] == ["l0.out.mm", "l0.h.mm", "l1.out.mm", "l1.h.mm"]
    assert [len(stretch.readers) for stretch in all_of_them] == [3, 1, 3, 1]


@pytest.mark.parametrize("read", ["embedded", "l0.u"])
def test_what_something_else_reads_is_no_stretch(tmp_path: Path, read: str) -> None:
    source = tiny.Encoder().save(tmp_path / "float.onnx")
    model = onnx.load(source)
    model.graph.output.append(onnx.ValueInfoProto(name=read))
    onnx.save(onnx.shape_inference.infer_shapes(model), source)
    loaded = io.load(source)
    npu_form(loaded, tiny.SHAPE)
    assert [stretch.tensors[0].name for stretch in stretches(loaded.graph)] == ["l0.x"]


@pytest.mark.parametrize("own", [False, True], ids=["one scale for both readers", "a scale for the linear layers"])
@pytest.mark.parametrize("options", [{}, {"layers": 2}, {"bias": False}, {"norm_bias": False}], ids=str)
def test_the_model_computes_the_same(tmp_path: Path, options: dict, own: bool) -> None:
    form, model, all_of_them = found(tmp_path, **options)
    emit = Emitter(model.graph)
    for number, stretch in enumerate(all_of_them):
        middle = affine(10 + number).shift
        scale(emit, stretch, affine(number), middle, affine(20 + number).scale if own else None)
    scaled = saved(model, tmp_path / "scaled.onnx")
    feeds = tiny.inputs()
    before, after = tiny.run(form, feeds), tiny.run(scaled, feeds)
    assert list(before) == list(after)
    for name, values in before.items():
        np.testing.assert_allclose(after[name], values, **CLOSE, err_msg=name)
    count = len(all_of_them)
    cost = Counter({"Mul": count * (2 if own else 1), "Add": count})
    assert operators(scaled) - operators(form) == cost, "what the docstring says"


def test_the_tensors_hold_what_they_should(tmp_path: Path) -> None:
    form, model, (first, _) = found(tmp_path)
    stream, middle, matmul = affine(1), affine(2).shift, affine(3).scale
    names = [str(value.name) for value in first.tensors]
    made: Scaled = scale(Emitter(model.graph), first, stream, middle, matmul)
    assert made.matmul is not None
    new = [str(value.name) for value in (made.x, made.h, made.y, *made.steps, made.matmul)]
    feeds = tiny.inputs()
    before = tiny.run(form, feeds, *names)
    after = tiny.run(saved(model, tmp_path / "scaled.onnx"), feeds, *new)
    x, h, y = (before[name] for name in names)
    expected = [
        (x - stream.shift) / stream.scale,
        (h - middle + stream.shift) / stream.scale,
        (y - middle) / stream.scale,
        y - middle,
        y,
        (x - stream.shift) / matmul,
    ]
    for name, values in zip(new, expected, strict=True):
        np.testing.assert_allclose(after[name], values, **CLOSE, err_msg=name)
