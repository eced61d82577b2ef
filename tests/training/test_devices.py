"""The device that was asked for is there, or one sentence says why not."""

from pathlib import Path

import pytest
import torch

from crystalframer.errors import UserError
from crystalframer.training.devices import check_device, idle_gpu
from pipelines.train import main


@pytest.mark.parametrize("name", ["gpu", "CUDA", "cuda:", "tpu", "cuda:x", ""])
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(UserError, match="expected cpu, cuda or cuda:N"):
        check_device(name)


def test_a_gpu_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    check_device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"got 'cuda', but torch .* sees 0 GPUs here"):
        check_device("cuda")
    assert idle_gpu("cpu") == ""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "some GPU")
    check_device("cuda")
    check_device("cuda:1")
    with pytest.raises(UserError, match="sees 2 GPUs here"):
        check_device("cuda:2")
    assert idle_gpu("cpu") == "training on the CPU though there is a GPU (some GPU): --device cuda uses it"
    assert idle_gpu("cuda") == ""


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
@pytest.mark.parametrize("name", ["cuda", "gpu"])
def test_training_without_the_gpu_asked_for_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    assert main(["--device", name, "--out", str(tmp_path / "out")]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"error: --device: got '{name}', ")
    assert captured.err.count("\n") == 1
    assert not (tmp_path / "out").exists()
