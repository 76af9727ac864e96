"""Fine-tuning learns, gives the same bytes twice and after an interruption, and says when it diverges."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from qonnx_pipe.core.examples import Batch
from qonnx_pipe.errors import ModelError, NumericsError
from qonnx_pipe.recipe.training import Training
from tests.zoo.learners import make_learner

pytestmark = pytest.mark.export

CLASSES = ("bad", "good")
FAST = Training(epochs=4, learning_rate=5e-3)


def made_up(count: int, seed: int) -> list[Batch]:
    """Batches of eight texts of ten tokens: below 55 all of them in a good text, above in a bad one."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        good = rng.random(8) < 0.5
        ids = rng.integers(10, 55, (8, 10)) + 45 * ~good[:, None]
        inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        found.append(Batch(inputs, tuple(CLASSES[int(one)] for one in good)))
    return found


def accuracy(trained: object, batches: list[Batch]) -> Callable[[], tuple[float, None]]:
    """Share of right classes, counted here."""

    def share() -> tuple[float, None]:
        found = [row.argmax(-1) for row in (one["logits"] for one in trained.outputs(batches))]  # type: ignore[attr-defined]
        wanted = [label for batch in batches for label in batch.labels]
        pairs = zip(np.concatenate(found), wanted, strict=True)
        return float(np.mean([CLASSES[i] == label for i, label in pairs])), None

    return share


def epoch(number: int) -> list[Batch]:
    return made_up(12, 100 + number)


@pytest.fixture(scope="module")
def learner(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., object]:
    from qonnx_pipe.source.checkpoint import resolve
    from qonnx_pipe.source.finetune import learner

    folder = make_learner(tmp_path_factory.mktemp("learner"))
    return lambda seed=0: learner(resolve(str(folder)), "class", CLASSES, seed=seed)


def weights(model: object) -> dict[str, bytes]:
    return {name: value.numpy().tobytes() for name, value in model.model.state_dict().items()}  # type: ignore[attr-defined]


def test_it_learns_and_keeps_the_best_epoch(learner: Callable[..., object], tmp_path: Path) -> None:
    from qonnx_pipe.source.training import fit

    steps: list[int] = []
    trained = learner()
    held = made_up(8, 1)
    epochs = fit(trained, epoch, accuracy(trained, held), FAST, workdir=tmp_path, progress=steps.append)
    assert sum(steps) == 48
    assert epochs[-1].loss < epochs[0].loss
    assert accuracy(trained, held)()[0] == max(one.accuracy for one in epochs) > 0.9
    first, again = (next(iter(trained.outputs(held)))["logits"] for _ in range(2))  # type: ignore[attr-defined]
    np.testing.assert_array_equal(first, again, "no dropout in a prediction")


def test_the_same_bytes_twice_and_after_an_interruption(learner: Callable[..., object], tmp_path: Path) -> None:
    from qonnx_pipe.source.training import fit

    def run(name: str, stop_after: int = 10**6) -> tuple[dict[str, bytes], object]:
        seen = 0

        def count(done: int) -> None:
            nonlocal seen
            seen += done
            if seen > stop_after:
                raise KeyboardInterrupt

        (tmp_path / name).mkdir(exist_ok=True)
        trained = learner()
        epochs = fit(trained, epoch, accuracy(trained, made_up(4, 1)), FAST, workdir=tmp_path / name, progress=count)
        return weights(trained), epochs

    whole = run("a")
    assert run("b") == whole
    with pytest.raises(KeyboardInterrupt):
        run("c", stop_after=17)
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == ["best.pt", "state.pt"]
    assert run("c") == whole


def test_a_start_that_no_epoch_beats_stays(learner: Callable[..., object], tmp_path: Path) -> None:
    from qonnx_pipe.source.training import Epoch, fit

    trained = learner()
    untouched = weights(trained)
    start = Epoch(float("nan"), 0.5)
    fit(trained, epoch, lambda: (0.5, None), FAST, workdir=tmp_path, progress=lambda _: None, start=start)
    assert weights(trained) == untouched


def test_the_seed_draws_the_head(learner: Callable[..., object]) -> None:
    first, same, other = weights(learner()), weights(learner()), weights(learner(1))
    assert first == same
    assert {name for name in first if first[name] != other[name]} == {"classifier.weight"}


def test_a_loss_that_is_no_number(learner: Callable[..., object], tmp_path: Path) -> None:
    import torch

    from qonnx_pipe.source.training import fit

    broken = learner()
    with torch.no_grad():
        broken.model.classifier.weight.fill_(float("inf"))  # type: ignore[attr-defined]
    with pytest.raises(NumericsError, match="the loss is nan at step 1 of epoch 1") as failure:
        fit(broken, epoch, lambda: (0.0, None), FAST, workdir=tmp_path, progress=lambda _: None)
    assert "learning_rate" in failure.value.fix


def test_an_image_model_is_refused(checkpoint: Callable[..., Path]) -> None:
    from qonnx_pipe.source.checkpoint import resolve
    from qonnx_pipe.source.finetune import learner

    with pytest.raises(ModelError, match="cannot be loaded to be trained"):
        learner(resolve(str(checkpoint("vit"))), "class", CLASSES, seed=0)
