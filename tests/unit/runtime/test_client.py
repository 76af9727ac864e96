"""A worker answers, and a worker that dies, hangs or babbles is an error, never a hang."""

import os
import sys
import time

import numpy as np
import pytest

from qonnx_pipe.errors import DataError, ModelError, ProviderError
from qonnx_pipe.runtime import client
from qonnx_pipe.runtime.client import Limits, Worker
from qonnx_pipe.runtime.race import Racer, latencies, race
from tests.zoo import graphs

X = np.random.default_rng(0).normal(size=(2, 4, graphs.WIDTH)).astype(np.float32)


@pytest.fixture
def model(tmp_path):
    return graphs.float_matmul(tmp_path / "m.onnx")


def played_by(model, code: str, **options) -> Worker:
    return Worker(model, command=(sys.executable, "-c", code), **options)


def test_a_worker_predicts_batch_after_batch(model):
    with Worker(model, threads=1) as worker:
        outputs = list(worker.predict([{"x": X}, {"x": X[:1]}]))
    np.testing.assert_allclose(outputs[0]["y"], X @ graphs.weight(), atol=1e-4)
    assert outputs[1]["y"].shape == (1, 4, graphs.WIDTH)


def test_a_worker_survives_errors_and_hands_them_over_as_they_were(model, tmp_path):
    with Worker(model, threads=1) as worker:
        with pytest.raises(DataError, match="without data for") as caught:
            list(worker.predict([{"z": X}]))
        assert caught.value.where == str(model)
        assert len(list(worker.predict([{"x": X}]))) == 1
    with Worker(tmp_path / "none.onnx") as worker, pytest.raises(ModelError, match="no such ONNX file"):
        worker.census({"x": X})
    with Worker(model, "tpu") as worker, pytest.raises(ProviderError, match="unknown execution provider"):
        list(worker.predict([{"x": X}]))


def test_a_worker_times_and_reports_its_own_memory(model):
    ballast = np.ones(100_000_000, np.uint8)  # must not show up in the child's peak
    with Worker(model, threads=1) as worker:
        spell = worker.time({"x": X}, seconds=0.0, least=5)
    assert len(spell.seconds) == 5
    assert all(0 < seconds < 5 for seconds in spell.seconds)
    assert spell.first_s > min(spell.seconds), "it opens the session too"
    assert 10e6 < spell.peak_rss < 10e6 + 150e6
    del ballast


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="processes cannot be bound to cores here")
def test_a_worker_is_bound_to_its_cores(model):
    core = max(os.sched_getaffinity(0))
    with Worker(model, threads=1, cores=(core,)) as worker:
        worker.time({"x": X}, seconds=0.0, least=1)
        assert os.sched_getaffinity(worker._process.pid) == {core}


def test_a_killed_worker(model):
    code = "import os, signal; input(); os.kill(os.getpid(), signal.SIGKILL)"
    with played_by(model, code) as worker, pytest.raises(ProviderError, match=r"killed by signal 9 \(SIGKILL\)"):
        worker.time({"x": X}, seconds=0, least=1)


def test_a_worker_that_died_before_it_was_asked(model):
    with played_by(model, "raise SystemExit(3)") as worker:
        worker._process.wait()
        with pytest.raises(ProviderError, match="exit status 3"):
            worker.time({"x": X}, seconds=0, least=1)


def test_the_last_words_of_a_dead_worker_are_told(model):
    code = "import sys; input(); sys.exit('out of luck')"
    with played_by(model, code) as worker, pytest.raises(ProviderError, match="last words: out of luck"):
        worker.time({"x": X}, seconds=0, least=1)


def test_a_hanging_worker_is_killed_after_its_time(model):
    start = time.monotonic()
    with (
        played_by(model, "import time; time.sleep(60)", limits=Limits(0.2)) as worker,
        pytest.raises(ProviderError, match=r"no answer to 'time' for 0\.2 s"),
    ):
        worker.time({"x": X}, seconds=0, least=1)
    assert time.monotonic() - start < 20
    assert worker._process.returncode is not None


def test_a_worker_that_closes_its_pipes_and_lives_on(model, monkeypatch):
    monkeypatch.setattr(client, "GOODBYE_S", 0.2)
    code = "import os, time; input(); os.close(1); time.sleep(60)"
    with played_by(model, code) as worker, pytest.raises(ProviderError, match="closed its pipes without ending"):
        worker.time({"x": X}, seconds=0, least=1)


@pytest.mark.parametrize(
    "answer", ["garbage", "[1, 2]", "17", "", "{}", '{"error": {}}', '{"error": 4}', '{"error": {"kind": "Moon"}}']
)
def test_a_babbling_worker(model, answer):
    code = f"import time; input(); print({answer!r}, flush=True); time.sleep(60)"
    with played_by(model, code) as worker, pytest.raises(ProviderError, match="which is no answer"):
        worker.time({"x": X}, seconds=0, least=1)


def test_prints_of_native_code_do_not_spoil_the_protocol(model):
    code = (
        "import os\nfrom qonnx_pipe.runtime import worker\nfrom qonnx_pipe.runtime.worker import Commands\n"
        "plain = Commands.time\n"
        "def noisy(self, **arguments):\n    os.write(1, b'native noise\\n')\n    return plain(self, **arguments)\n"
        "Commands.time = noisy\nworker.main()\n"
    )
    with played_by(model, code, threads=1) as worker:
        assert len(worker.time({"x": X}, seconds=0, least=2).seconds) == 2


def test_leaving_a_worker_ends_its_process_and_removes_its_files(model):
    with Worker(model) as worker:
        folder, pid = worker._folder, worker._process.pid
        assert folder.is_dir()
    assert not folder.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_race_gives_every_model_every_round(model, tmp_path):
    quantized = graphs.qdq_matmul(tmp_path / "q.onnx")
    timings = race([Racer(model), Racer(quantized)], {"x": X}, threads=1, rounds=2)
    assert [len(timing.rounds) for timing in timings] == [2, 2]
    first, second = latencies((2, 4), timings)
    assert (first.speedup, first.speedup_interval) == (1.0, (1.0, 1.0))
    assert second.speedup_interval[0] <= second.speedup <= second.speedup_interval[1]
    assert second.n == sum(map(len, timings[1].rounds))
    assert latencies((2, 4), timings, relative=False)[1].speedup is None
