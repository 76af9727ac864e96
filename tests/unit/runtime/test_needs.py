"""What a machine lacks for a provider, on pretended machines."""

import pytest

from qonnx_pipe.runtime import needs, providers


@pytest.mark.parametrize(
    ("name", "where", "driver", "missing"),
    [
        ("cpu", ("Linux", "riscv64"), False, "needs a processor of type x86_64 or aarch64"),
        ("cpu", ("Darwin", "arm64"), False, ""),
        ("cuda", ("Linux", "x86_64"), True, ""),
        ("cuda", ("Linux", "x86_64"), False, "no NVIDIA GPU: there is no driver"),
        ("cuda", ("Linux", "aarch64"), True, "needs a processor of type x86_64"),
        ("cuda", ("Darwin", "arm64"), False, "needs Linux or Windows"),
        ("tensorrt", ("Windows", "AMD64"), True, ""),
        ("tensorrt-rtx", ("Windows", "ARM64"), True, ""),
        ("coreml", ("Linux", "x86_64"), False, "needs macOS"),
        ("directml", ("Linux", "x86_64"), False, "needs Windows"),
        ("directml", ("Windows", "AMD64"), False, ""),
        ("webgpu", ("Linux", "aarch64"), False, ""),
        ("openvino", ("Darwin", "x86_64"), False, "needs Linux or Windows"),
        ("xnnpack", ("Linux", "x86_64"), False, "in no package: build onnxruntime with it"),
    ],
)
def test_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, name: str, where: tuple[str, str], driver: bool, missing: str
) -> None:
    monkeypatch.setattr(needs.platform, "system", lambda: where[0])
    monkeypatch.setattr(needs.platform, "machine", lambda: where[1])
    monkeypatch.setattr(needs, "_nvidia_driver", lambda: driver)
    assert providers.find(name).needs.missing() == missing
