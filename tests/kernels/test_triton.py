"""The Triton kernel equals the reference: compiled where there is a GPU, else in Triton's interpreter at tiny sizes."""

import csv
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from crystalframer.config import FRAMES, DataConfig, FrameName, ModelConfig, TrainConfig
from crystalframer.data.batch import BatchLoader
from crystalframer.data.dataset import TaskData
from crystalframer.data.registry import load_task
from crystalframer.data.resident import PaddedShape, ResidentCrystals
from crystalframer.geometry.crystal import Crystal
from crystalframer.kernels import parity, reference
from crystalframer.kernels.mean_over_ties import mean_over_ties
from crystalframer.kernels.parity import GRADIENTS, make_batch, make_inputs, random_crystal, relative_rms, run
from crystalframer.nn.model import CrystalFramer
from crystalframer.resolving import build_trial
from crystalframer.training.device_steps import DeviceSteps
from crystalframer.training.metrics import Target
from crystalframer.training.optimizer import build_optimizer
from tests.fixtures.crystals import symmetric_crystals
from tests.golden import comparison as golden

triton = pytest.importorskip("triton", reason="needs triton (pip install -e .[gpu])")
from crystalframer.kernels import triton_kernel  # noqa: E402

DEVICE = torch.device("cpu" if triton.knobs.runtime.interpret else "cuda")
ROOT = Path(__file__).parents[2]


def config_for(frame: FrameName, preset: str = "default", cutoff: float = 5.0, **sizes: int) -> ModelConfig:
    settings = {"frame": frame, "preset": preset, "cutoff": cutoff, "width": 32, "num_heads": 2, **sizes}
    return build_trial({f"model.{name}": value for name, value in settings.items()}).model


def assert_parity(crystals: list[Crystal], config: ModelConfig, tie_seed: int | None = None) -> None:
    """Output and gradients are within 1e-5 of float64's, or within twice the error plain torch makes in float32."""
    errors = parity.compare(triton_kernel.attend, crystals, config, tie_seed, device=DEVICE)
    assert [error.name for error in errors] == ["out", *GRADIENTS[: 5 if config.frame == "none" else 6]]
    for error in errors:
        assert error.ok, str(error)


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fill what the kernel allocates without initialising it with NaN."""
    empty_like, new_empty = torch.empty_like, Tensor.new_empty

    def spoil(tensor: Tensor) -> Tensor:
        return tensor.fill_(torch.nan) if tensor.is_floating_point() else tensor

    monkeypatch.setattr(torch, "empty_like", lambda *a, **k: spoil(empty_like(*a, **k)))
    monkeypatch.setattr(Tensor, "new_empty", lambda *a, **k: spoil(new_empty(*a, **k)))


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize(("preset", "tie_seed"), [("default", None), ("lightweight", 7)])
@pytest.mark.parametrize("frame", FRAMES)
def test_equals_the_reference_on_outputs_and_every_gradient(
    frame: FrameName, preset: str, tie_seed: int | None
) -> None:
    assert_parity([random_crystal(n) for n in (1, 2)], config_for(frame, preset), tie_seed)


@pytest.mark.parametrize(("preset", "tie_seed"), [("lightweight", None), ("default", 7)])
@pytest.mark.parametrize("frame", ["max", "weighted_pca"])
def test_equals_the_reference_in_the_other_presets_and_modes(
    frame: FrameName, preset: str, tie_seed: int | None
) -> None:
    assert_parity([random_crystal(2, seed=1)], config_for(frame, preset), tie_seed)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("frame", ["none", "max", "weighted_pca"])
def test_sizes_that_are_no_powers_of_two(frame: FrameName) -> None:
    config = config_for(frame, cutoff=4.0, width=15, num_heads=3, num_dist=20)
    assert_parity([random_crystal(3)], config, tie_seed=2)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("frame", ["none", "max", "static_local", "weighted_pca"])
def test_an_atom_alone(frame: FrameName) -> None:
    config = config_for(frame)
    crystals = [random_crystal(1, density=0.0005), random_crystal(1, density=0.01)]
    assert make_batch(crystals, config.cutoff).first_edge.diff().min() == 1
    assert_parity(crystals, config)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("frame", ["none", "max"])
def test_more_neighbours_than_one_block(frame: FrameName) -> None:
    config = config_for(frame, cutoff=6.0)
    batch = make_batch([random_crystal(1, density=0.14)], config.cutoff)
    assert 2 * triton_kernel.HEAD_BLOCK < batch.num_edges < 3 * triton_kernel.HEAD_BLOCK
    assert_parity([random_crystal(1, density=0.14)], config)


@pytest.mark.parametrize(
    ("frame", "tie_seed"), [("max", None), ("max", 3), ("static_local", 3), ("weighted_pca", None), ("weighted_pca", 3)]
)
def test_settles_ties_and_degenerate_axes_as_the_reference_does(frame: FrameName, tie_seed: int | None) -> None:
    config = config_for(frame, cutoff=4.3)
    crystals = symmetric_crystals()
    tied = [crystals[name] for name in ("rocksalt", "hcp", "chain", "isolated")]
    batch = make_batch(tied, config.cutoff).to(DEVICE)
    inputs = make_inputs(batch, config)
    with torch.no_grad():
        got, want = (attend(inputs, batch, config, tie_seed) for attend in (triton_kernel.attend, reference.attend))
    worst = (got - want).flatten(1).norm(dim=1) / want.flatten(1).norm(dim=1)
    assert float(worst.max()) <= 1e-5


@pytest.mark.parametrize("frame", ["static_local", "weighted_pca", "max"])
def test_takes_the_references_mean_over_ties(frame: FrameName) -> None:
    """Open frames of hcp, whose tied neighbours are not equivalent, and of a chain; decided ones of a random one."""
    config = config_for(frame, cutoff=4.3)
    crystals = symmetric_crystals()
    batch = make_batch([crystals["hcp"], crystals["chain"], random_crystal(2)], config.cutoff).to(DEVICE)
    inputs = make_inputs(batch, config)
    with torch.no_grad():
        got = mean_over_ties(triton_kernel.attend, "triton")(inputs, batch, config)
        want = mean_over_ties(reference.attend, "reference")(inputs, batch, config)
        first = triton_kernel.attend(inputs, batch, config)
    assert relative_rms(got, want) <= 1e-5
    assert relative_rms(first, want) > 1e-3


def test_two_runs_are_bitwise_equal() -> None:
    config = config_for("max", cutoff=4.0)
    batch = make_batch([random_crystal(2)], config.cutoff).to(DEVICE)
    inputs = make_inputs(batch, config)
    first, second = (run(triton_kernel.attend, inputs, batch, config, 5) for _ in range(2))
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def test_injected_frames_are_used() -> None:
    config = config_for("max", cutoff=4.0)
    batch = make_batch([random_crystal(2)], config.cutoff).to(DEVICE)
    inputs = make_inputs(batch, config)
    frames = torch.linalg.qr(torch.randn(2, 2, 3, 3, generator=torch.Generator().manual_seed(1))).Q.to(DEVICE)
    with torch.no_grad():
        got, want = (a(inputs, batch, config, None, frames) for a in (triton_kernel.attend, reference.attend))
        own = triton_kernel.attend(inputs, batch, config)
    assert relative_rms(got, want) <= 1e-5
    assert relative_rms(own, want) > 1e-3


@pytest.mark.skipif(not golden.FOLDER.is_dir(), reason="needs the golden files in ../shared/golden")
@pytest.mark.parametrize("name", ["none_default", "max_default"])
def test_predictions_of_the_smallest_golden_crystals(name: str) -> None:
    model, arrays = golden.model_of(name, "triton", torch.float32).to(DEVICE), golden.read(name)
    count, num_atoms = 3, int(arrays["offsets"][3])
    crystals = [
        Crystal(arrays["lattice"][s], arrays["frac"][slice(*arrays["offsets"][s : s + 2])],
                arrays["Z"][slice(*arrays["offsets"][s : s + 2])])
        for s in range(count)
    ]  # fmt: skip
    given = golden.frames_of(name, torch.float32)
    frames = None if given is None else [level[:num_atoms].to(DEVICE) for level in given]
    with torch.no_grad():
        predicted = model(make_batch(crystals, golden.CUTOFF).to(DEVICE), frames=frames)
    exact = torch.from_numpy(arrays["pred_exact"])[:count]
    assert float((predicted.cpu().double() - exact).abs().max()) < 2e-6


def test_other_dtypes_are_refused() -> None:
    config = config_for("max")
    batch = make_batch([random_crystal(2)], config.cutoff).to(DEVICE)
    with pytest.raises(TypeError, match="float32"):
        triton_kernel.attend(parity.doubled(make_inputs(batch, config)), batch, config)


@pytest.mark.slow
def test_every_kernel_compiles_without_a_gpu_and_without_spills(tmp_path: Path) -> None:
    """The interpreter tolerates what the compiler does not; A100, L40 and H100 have different ones."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "benchmarks.compiled_kernels", "--presets", "default", "--output", "kernels.csv"]
    environment |= {"TRITON_CACHE_DIR": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with (tmp_path / "kernels.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    kernels = {
        "edge_dot", "edge_sum", "softmax", "principal_axes", "settle_signs", "distance_moments", "angular_moments",
        "distance_gradient", "weight_gradient",
    }  # fmt: skip
    assert {(row["kernel"], row["sm"]) for row in rows} == {(name, sm) for name in kernels for sm in ("80", "89", "90")}
    assert [row for row in rows if int(row["local_bytes"]) > 0] == []
    assert [row for row in rows if int(row["shared_bytes"]) > 48 * 1024] == []  # which every GPU has
    assert all(f"| `{name}` |" in done.stdout for name in kernels)


def two_small_crystals(frame: FrameName) -> tuple[TaskData, NDArray[np.int64], CrystalFramer]:
    """Return a task, the rows of two of its smallest crystals, and a tiny calibrated model on the device."""
    task = load_task(DataConfig(train_size=8, val_size=1, test_size=1))
    small = task.rows["train"][np.argsort(task.dataset.num_atoms[task.rows["train"]], kind="stable")[:2]]
    config = config_for(frame, cutoff=3.2, num_elements=98, num_blocks=1)
    model = CrystalFramer(config, kernel="triton", generator=torch.Generator().manual_seed(0)).to(DEVICE)
    model.calibrate(BatchLoader(task, config.cutoff).batch(small).to(DEVICE))
    return task, small, model


@pytest.mark.parametrize("frame", ["none", "max", "weighted_pca"])
def test_a_padded_batch_and_a_seed_on_the_device_change_nothing(frame: FrameName) -> None:
    """What a recorded training step consists of: crystals gathered on the device, padded, ties from a tensor."""
    task, small, model = two_small_crystals(frame)
    config = model.config
    plain = BatchLoader(task, config.cutoff).batch(small).to(DEVICE)
    resident = ResidentCrystals(task, small, config.cutoff, DEVICE)
    padded = resident.gather(torch.tensor([0, 1], device=DEVICE), PaddedShape(plain.num_atoms + 2, plain.num_edges + 9))
    results = []
    for batch, seed in ((plain, 5), (padded, torch.tensor(5, device=DEVICE))):
        model.zero_grad()
        predicted = model(batch, tie_seed=seed)
        predicted[:2].sum().backward()
        results.append([predicted[:2].detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)])
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-6)


class _Asked(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the operations that a step recorded on a GPU could not contain: they wait for the device or its host."""

    FORBIDDEN = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "repeat_interleave.Tensor", "lift_fresh")

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(name in str(func) for name in self.FORBIDDEN):
            self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("frame", ["pca", "max", "weighted_pca"])
def test_a_step_on_the_device_asks_nothing_of_the_host(frame: FrameName) -> None:
    task, small, model = two_small_crystals(frame)
    train = TrainConfig(epochs=1, average_epochs=0, batch_size=2)
    targets = [Target("formation_energy", "eV/atom", 0.0, 1.0)]
    optimizer = build_optimizer(model, train)
    steps = DeviceSteps(model, optimizer, targets, replace(task, rows={"train": small}), train, wanted=True)
    steps.begin([small, small])
    assert steps.step(0, 1, 1e-3)  # whatever is made once
    with _Asked() as asked:
        with pytest.raises(AssertionError, match="asked"):
            assert not torch.ones(1).item(), "asked"
        assert asked.seen == ["aten._local_scalar_dense.default"]
        asked.seen.clear()
        assert steps.step(1, 2, 1e-3)
    assert asked.seen == []
    assert np.isfinite(steps.outcome().losses).all()
