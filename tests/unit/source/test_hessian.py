"""Curvature of a small network, against its whole Hessian and against differences of its gradients."""

import pytest
import torch

from qonnx_pipe.source.hessian import Block, Hessian, Slopes, largest, plane, top_eigenvalue, traces

pytestmark = pytest.mark.export

SHAPES = {"in": (6, 8), "out": (8, 3)}
N = 12


def network(weights, inputs):
    """Scores of a layer with tanh and a second one."""
    return torch.tanh(inputs @ weights["in"]) @ weights["out"]


@pytest.fixture
def problem():
    """Weights, inputs and classes, in double precision for the oracle's sake."""
    generator = torch.Generator().manual_seed(4)
    weights = {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
    inputs = torch.randn(N, 6, generator=generator)
    classes = torch.randint(0, 3, (N,), generator=generator)
    return weights, inputs, classes


def hessian_of(problem, parts: int = 1) -> Hessian:
    weights, inputs, classes = problem
    leaves = {name: value.clone().requires_grad_() for name, value in weights.items()}

    def loss(rows: slice):
        scores = network(leaves, inputs[rows])
        return torch.nn.functional.cross_entropy(scores, classes[rows], reduction="sum") / N

    step = N // parts
    return Hessian([lambda rows=slice(at, at + step): loss(rows) for at in range(0, N, step)], leaves)


def dense(problem, names):
    """The Hessian [n, n] of the same loss over `names`, by torch's own means, in float64."""
    weights, inputs, classes = problem
    weights = {name: value.double() for name, value in weights.items()}
    sizes = [weights[name].numel() for name in names]

    def loss(flat):
        pieces = dict(zip(names, torch.split(flat, sizes), strict=True))
        own = weights | {name: piece.reshape(weights[name].shape) for name, piece in pieces.items()}
        scores = network(own, inputs.double())
        return -torch.log_softmax(scores, -1)[torch.arange(N), classes].mean()

    flat = torch.cat([weights[name].reshape(-1) for name in names])
    return torch.autograd.functional.hessian(loss, flat)


@pytest.mark.parametrize("names", [["in"], ["out"], ["in", "out"]])
def test_top_eigenvalue_is_that_of_the_whole_matrix(problem, names) -> None:
    values = torch.linalg.eigvalsh(dense(problem, names))
    strongest = float(values[values.abs().argmax()])
    block = Block(hessian_of(problem), names)
    found = top_eigenvalue(block, seed=1, tolerance=1e-5)
    assert found.converged
    assert found.value == pytest.approx(strongest, rel=0.01)
    by_lanczos, vectors = largest(block, 2, seed=1)
    assert by_lanczos == pytest.approx(values.flip(0)[:2].tolist(), rel=0.01)
    for column, value in zip(vectors.T, by_lanczos, strict=True):
        product = dense(problem, names) @ torch.from_numpy(column)
        assert torch.allclose(product, value * torch.from_numpy(column), atol=0.01 * abs(value))


def test_a_default_run_says_how_far_it_came(problem) -> None:
    values = torch.linalg.eigvalsh(dense(problem, ["in", "out"]))
    found = top_eigenvalue(Block(hessian_of(problem), ["in", "out"]), seed=3)
    assert min(abs(value - found.value) for value in values.tolist()) <= found.residual * abs(found.value) + 1e-6
    cut = top_eigenvalue(Block(hessian_of(problem), ["in"]), seed=3, most=2, tolerance=0.0)
    assert (cut.iterations, cut.converged) == (2, False)


def test_negative_curvature_keeps_its_sign() -> None:
    weight = torch.tensor([0.1, 0.2], requires_grad=True)
    hessian = Hessian([lambda: (torch.tensor([-3.0, 1.0]) * weight.square()).sum() / 2], {"w": weight})
    assert top_eigenvalue(Block(hessian, ["w"]), seed=0, tolerance=1e-4).value == pytest.approx(-3.0, rel=1e-3)


@pytest.mark.parametrize("parts", [1, 3])
def test_products_are_differences_of_gradients(problem, parts: int) -> None:
    weights, inputs, classes = problem
    generator = torch.Generator().manual_seed(9)
    direction = {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
    found = hessian_of(problem, parts).product(direction)

    def gradient(step: float):
        at = {
            name: (value.double() + step * direction[name].double()).requires_grad_() for name, value in weights.items()
        }
        loss = torch.nn.functional.cross_entropy(network(at, inputs.double()), classes)
        return torch.autograd.grad(loss, list(at.values()))

    step = 1e-5
    for name, ahead, behind in zip(SHAPES, gradient(step), gradient(-step), strict=True):
        assert torch.allclose(found[name].double(), (ahead - behind) / (2 * step), rtol=1e-3, atol=1e-5)


def test_traces_of_each_block(problem) -> None:
    found = traces(hessian_of(problem), probes=400, seed=2)
    for name in SHAPES:
        mean, error = found[name]
        assert abs(mean - float(torch.trace(dense(problem, [name])))) < 4 * error
        assert 0 < error < 0.2 * mean


def test_what_gradients_say_of_errors(problem) -> None:
    """Every sum written out, one example after the other."""
    weights, inputs, classes = problem
    errors = {name: {2: 0.1 * value.cos(), 4: 0.01 * value.sin()} for name, value in weights.items()}
    arrays = {name: {bits: error.numpy() for bits, error in by_bits.items()} for name, by_bits in errors.items()}
    leaves = {name: value.clone().requires_grad_() for name, value in weights.items()}
    slopes, seen = Slopes(leaves, arrays), []
    for row, wanted in zip(inputs, classes, strict=True):
        slopes.add(torch.nn.functional.cross_entropy(network(leaves, row), wanted))
        copies = {name: value.clone().requires_grad_() for name, value in weights.items()}
        (-torch.log_softmax(network(copies, row), -1)[wanted]).backward()
        seen.append({name: copies[name].grad for name in copies})
    for name, by_bits in errors.items():
        for bits, error in by_bits.items():
            dots = [float((one[name] * error).sum()) for one in seen]
            squares = torch.stack([one[name].square() for one in seen]).mean(0)
            assert slopes.fisher(name, bits) == pytest.approx(0.5 * float((squares * error**2).sum()), rel=1e-4)
            assert slopes.taylor(name, bits) == pytest.approx(sum(map(abs, dots)) / N, rel=1e-4)
            assert slopes.taylor_squared(name, bits) == pytest.approx(0.5 * sum(d * d for d in dots) / N, rel=1e-4)


def test_a_plane_through_the_weights(problem) -> None:
    weights, inputs, classes = problem
    block = Block(hessian_of(problem, parts=3), ["in"])
    directions = torch.randn(block.size, 2, generator=torch.Generator().manual_seed(5)).double()
    rows = plane(block, directions.numpy(), [-0.1, 0.0, 0.2])
    for a, row in zip((-0.1, 0.0, 0.2), rows, strict=True):
        for b, loss in zip((-0.1, 0.0, 0.2), row, strict=True):
            moved = weights["in"] + (directions @ torch.tensor([a, b]).double()).reshape(SHAPES["in"])
            scores = network(weights | {"in": moved.float()}, inputs)
            assert loss == pytest.approx(float(torch.nn.functional.cross_entropy(scores, classes)), rel=1e-4)
    assert torch.equal(block.hessian.weights["in"].detach(), weights["in"])
