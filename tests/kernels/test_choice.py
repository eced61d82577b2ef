"""Which implementation a model uses: as asked, or by the device its parameters are on."""

import logging
import sys

import pytest
import torch

from crystalframer import kernels
from crystalframer.errors import UserError
from crystalframer.kernels import get_kernel, resolve_kernel
from crystalframer.nn.model import CrystalFramer
from crystalframer.resolving import build_trial

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def test_auto_picks_by_device_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("triton", reason="needs triton (pip install -e .[gpu])")
    kernels._auto.cache_clear()
    with caplog.at_level(logging.INFO, logger="crystalframer.kernels"):
        assert [resolve_kernel("auto", device) for device in (CPU, CUDA, CPU, CUDA)] == ["cpu", "triton"] * 2
        assert resolve_kernel("auto", torch.device("meta")) == "reference"
    assert [record.getMessage().split(" (")[0] for record in caplog.records] == [
        "attention kernel: cpu on cpu",
        "attention kernel: triton on cuda",
        "attention kernel: reference on meta",
    ]


def test_a_model_follows_its_device() -> None:
    model = CrystalFramer(build_trial({"model.num_blocks": 1}).model)
    assert model.kernel_name == "cpu"
    assert model.to("meta").kernel_name == "reference"
    assert model.kernel == "auto"


def test_without_triton_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    for name in ("triton", "auto"):
        with pytest.raises(UserError, match="pip install triton"):
            resolve_kernel(name, CUDA)


def test_a_kernel_on_the_wrong_device_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="'cpu' got a model on cuda"):
        resolve_kernel("cpu", CUDA)
    triton = pytest.importorskip("triton", reason="needs triton (pip install -e .[gpu])")
    monkeypatch.setattr(triton.knobs.runtime, "interpret", False)
    with pytest.raises(UserError, match="'triton' got a model on the cpu; it runs on a CUDA device"):
        resolve_kernel("triton", CPU)


def test_an_unknown_kernel_lists_the_known_ones() -> None:
    with pytest.raises(UserError, match="got attention kernel 'fast'; expected one of auto, reference, cpu, triton"):
        resolve_kernel("fast", CPU)  # type: ignore[arg-type]


def test_triton_is_imported_only_when_asked_for() -> None:
    assert get_kernel("reference") is not get_kernel("cpu")
    pytest.importorskip("triton", reason="needs triton (pip install -e .[gpu])")
    assert get_kernel("triton").__module__ == "crystalframer.kernels.triton_kernel"
