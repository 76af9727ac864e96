"""Providers of both kinds before a pretended onnxruntime: what they register, and what they ask of a session."""

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import onnxruntime as ort
import pytest

from qonnx_pipe.errors import ProviderError
from qonnx_pipe.runtime import bundled, plugin, providers, session
from qonnx_pipe.runtime.providers import cuda, tensorrt, webgpu
from tests.zoo import graphs

GPU, CPU = ort.OrtHardwareDeviceType.GPU, ort.OrtHardwareDeviceType.CPU


def device(ep: str, kind: object, vendor: str = "Maker", **told: str) -> SimpleNamespace:
    return SimpleNamespace(ep_name=ep, ep_metadata=told, device=SimpleNamespace(type=kind, vendor=vendor))


class Options:
    """Session options that remember."""

    def __init__(self) -> None:
        self.intra_op_num_threads = 3
        self.enable_mem_pattern = True
        self.entries: dict[str, str] = {}
        self.added: list[tuple[list[object], dict[str, str]]] = []

    def add_session_config_entry(self, key: str, value: str) -> None:
        self.entries[key] = value

    def add_provider_for_devices(self, devices: list[object], settings: dict[str, str]) -> None:
        self.added.append((devices, settings))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("QPIPE_CACHE", str(tmp_path))
    return tmp_path


@pytest.fixture
def preloaded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    calls: list[str] = []
    monkeypatch.setattr(cuda.ort, "preload_dlls", lambda: calls.append("CUDA"))
    return calls


BUNDLED = ("cuda", "tensorrt", "coreml", "directml", "xnnpack")


@pytest.mark.parametrize("name", BUNDLED)
def test_a_bundled_provider_is_here_where_the_build_holds_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = providers.find(name)
    build = SimpleNamespace(__version__="9.9", get_available_providers=lambda: [found.ep, "CPUExecutionProvider"])
    monkeypatch.setattr(bundled, "ort", build)
    assert found.version() == "9.9"
    build.get_available_providers = lambda: ["CPUExecutionProvider"]
    assert found.version() is None


def test_what_bundled_providers_ask_for(cache: Path, preloaded: list[str]) -> None:
    asked = {name: providers.find(name).session_arguments(Options())["providers"] for name in BUNDLED}
    engines = str(cache / "tensorrt")
    assert asked["cuda"] == [("CUDAExecutionProvider", {})]
    assert asked["coreml"] == [("CoreMLExecutionProvider", {"ModelFormat": "MLProgram"})]
    assert asked["directml"] == [("DmlExecutionProvider", {"device_id": "0"})]
    assert asked["xnnpack"] == [("XnnpackExecutionProvider", {"intra_op_num_threads": "3"})]
    (own, settings), after = asked["tensorrt"]
    assert (own, after) == ("TensorrtExecutionProvider", "CUDAExecutionProvider")
    assert settings["trt_int8_enable"] == "1"
    assert settings["trt_engine_cache_path"] == settings["trt_timing_cache_path"] == engines
    assert Path(engines).is_dir()
    assert preloaded == ["CUDA", "CUDA"]


def test_directml_takes_no_memory_pattern_and_xnnpack_no_other_threads() -> None:
    options = Options()
    providers.find("directml").session_arguments(options)
    assert options.enable_mem_pattern is False
    providers.find("xnnpack").session_arguments(options)
    assert options.intra_op_num_threads == 1
    assert options.entries == {"session.intra_op.allow_spinning": "0"}


def test_tensorrt_imports_the_package_of_its_libraries_where_it_is(
    cache: Path, preloaded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (cache / "pretended_libs.py").write_text("LOADED = True\n", encoding="utf-8")
    monkeypatch.syspath_prepend(cache)
    monkeypatch.setattr(tensorrt, "LIBRARIES", "pretended_libs")
    providers.find("tensorrt").session_arguments(Options())
    import pretended_libs

    assert pretended_libs.LOADED


@pytest.fixture
def onnxruntime(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """With plugins of two GPUs and a CPU once their libraries are registered; `libraries` lists those."""
    made = SimpleNamespace(libraries=[], devices=[device("CPUExecutionProvider", CPU)])
    made.OrtHardwareDeviceType = ort.OrtHardwareDeviceType
    made.get_ep_devices = lambda: made.devices
    made.brings = [(CPU, {}), (GPU, {"FULL_DEVICE_NAME": "First"}), (GPU, {"FULL_DEVICE_NAME": "Second"})]

    def register(ep: str, library: str) -> None:
        made.libraries.append((ep, library))
        made.devices = [*made.devices, *(device(ep, kind, **told) for kind, told in made.brings)]

    made.register_execution_provider_library = register
    monkeypatch.setattr(plugin, "ort", made)
    package = SimpleNamespace(get_library_path=lambda: "library.so")
    for name in ("tensorrt-rtx", "webgpu"):
        monkeypatch.setitem(sys.modules, providers.find(name).module, package)
    plugin._register.cache_clear()
    return made


@pytest.mark.parametrize("name", ["tensorrt-rtx", "webgpu"])
def test_a_plugin_is_registered_once_and_its_first_gpu_is_added(
    name: str, onnxruntime: SimpleNamespace, cache: Path
) -> None:
    found, options = providers.find(name), Options()
    assert found.session_arguments(options) == {}
    assert found.session_arguments(options) == {}
    assert onnxruntime.libraries == [(found.ep, "library.so")]
    (devices, settings), _ = options.added
    assert [one.ep_metadata["FULL_DEVICE_NAME"] for one in devices] == ["First"]
    expected = {"nv_runtime_cache_path": str(cache / "tensorrt-rtx")} if name == "tensorrt-rtx" else {}
    assert settings == expected
    assert found.device() == "First"
    plugin._register.cache_clear()


def test_a_device_without_a_name_is_its_maker_and_kind(onnxruntime: SimpleNamespace) -> None:
    onnxruntime.brings = [(GPU, {})]
    assert webgpu.PROVIDER.device() == "Maker GPU"
    plugin._register.cache_clear()


def test_a_plugin_without_a_device_and_one_that_cannot_be_loaded(onnxruntime: SimpleNamespace) -> None:
    onnxruntime.brings = [(CPU, {})]
    with pytest.raises(ProviderError, match="finds no GPU with a Vulkan"):
        webgpu.PROVIDER.session_arguments(Options())
    plugin._register.cache_clear()

    def refuse(ep: str, library: str) -> None:
        raise RuntimeError("[ONNXRuntimeError] : 1 : FAIL : no libcudart.so\nmore")

    onnxruntime.register_execution_provider_library = refuse
    for _ in range(2):
        with pytest.raises(ProviderError, match=r"cannot be loaded: no libcudart\.so\n"):
            webgpu.PROVIDER.session_arguments(Options())


def test_any_variant_of_a_package_counts() -> None:
    absent = replace(webgpu.PROVIDER, package="no-such-distribution")
    assert absent.version() is None
    assert replace(absent, variants=("neither-this", "onnxruntime")).version() == ort.__version__


def test_a_provider_that_onnxruntime_leaves_out_has_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As CUDA without its libraries: the session opens, with a warning, on the CPU."""
    ghost = SimpleNamespace(ep="GhostExecutionProvider", session_arguments=lambda _: {"providers": []})
    monkeypatch.setattr(session.providers, "require", lambda _: ghost)
    with pytest.raises(ProviderError, match="provider failed: cuda: onnxruntime cannot load it"):
        session.open_session(graphs.float_matmul(tmp_path / "m.onnx"), "cuda")
