"""The CPU kernel equals the reference, on outputs and every gradient."""

import dataclasses
import os
import subprocess
import sys
from typing import Any, cast

import numba
import pytest
import torch
from numba.core import event
from torch import Tensor

from crystalframer.config import FRAMES, FrameName, ModelConfig
from crystalframer.geometry.crystal import Crystal
from crystalframer.kernels import cpu, cpu_loops, parity, reference
from crystalframer.kernels.basis import angular_basis
from crystalframer.kernels.chebyshev import TOLERANCE, chebyshev_matrix
from crystalframer.kernels.parity import GRADIENTS, doubled, make_batch, make_inputs, random_crystal, relative_rms, run
from crystalframer.resolving import build_trial


def assert_parity(crystals: list[Crystal], config: ModelConfig, tie_seed: int | None = None) -> None:
    """Output and gradients are within 1e-5 of float64's, or within twice the error plain torch makes in float32."""
    errors = parity.compare(cpu.attend, crystals, config, tie_seed)
    assert [error.name for error in errors] == ["out", *GRADIENTS[: 5 if config.frame == "none" else 6]]
    for error in errors:
        assert error.ok, str(error)


def config_for(frame: FrameName, preset: str = "default", cutoff: float = 6.0) -> ModelConfig:
    settings = {"model.frame": frame, "model.preset": preset, "model.cutoff": cutoff}
    return build_trial({**settings, "model.width": 64, "model.num_heads": 4}).model


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fill what the kernel allocates without initialising it with NaN."""
    empty_like, new_empty = torch.empty_like, Tensor.new_empty
    monkeypatch.setattr(torch, "empty_like", lambda *a, **k: empty_like(*a, **k).fill_(torch.nan))
    monkeypatch.setattr(Tensor, "new_empty", lambda *a, **k: new_empty(*a, **k).fill_(torch.nan))


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("tie_seed", [None, 7])
@pytest.mark.parametrize("preset", ["default", "lightweight"])
@pytest.mark.parametrize("frame", FRAMES)
def test_equals_the_reference_on_outputs_and_every_gradient(
    frame: FrameName, preset: str, tie_seed: int | None
) -> None:
    assert_parity([random_crystal(n) for n in (1, 2, 63, 7)], config_for(frame, preset), tie_seed)


@pytest.mark.parametrize("density", [0.0005, 0.06, 0.5])
@pytest.mark.parametrize("frame", ["none", "max", "weighted_pca"])
def test_equals_the_reference_from_one_to_five_hundred_neighbours(frame: FrameName, density: float) -> None:
    config = config_for(frame)
    crystals = [random_crystal(n, density) for n in (1, 5)]
    neighbours = make_batch(crystals, config.cutoff).first_edge.diff() - 1
    assert {0.0005: neighbours.min() == 0, 0.06: neighbours.min() > 30, 0.5: neighbours.max() > 400}[density]
    assert_parity(crystals, config)


@pytest.mark.parametrize("tie_seed", [None, 7])
@pytest.mark.parametrize(("width", "heads"), [(128, 16), (60, 12), (45, 3)])
@pytest.mark.parametrize("frame", FRAMES)
def test_any_number_of_heads_of_any_width(frame: FrameName, width: int, heads: int, tie_seed: int | None) -> None:
    config = dataclasses.replace(config_for(frame, "lightweight", cutoff=4.5), width=width, num_heads=heads)
    assert_parity([random_crystal(n) for n in (2, 9)], config, tie_seed)


def test_a_cell_of_257_atoms() -> None:
    assert_parity([random_crystal(257)], config_for("max", cutoff=5.0), tie_seed=3)


@pytest.mark.parametrize("frame", ["none", "max"])
def test_two_runs_are_bitwise_equal(frame: FrameName) -> None:
    config = config_for(frame)
    batch = make_batch([random_crystal(n) for n in (3, 20, 9)], config.cutoff)
    inputs = make_inputs(batch, config)
    first, second = (run(cpu.attend, inputs, batch, config, 5) for _ in range(2))
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def test_follows_torch_in_the_number_of_threads_and_does_not_depend_on_it() -> None:
    config = config_for("max")
    batch = make_batch([random_crystal(n) for n in (3, 20, 9, 14)], config.cutoff)
    inputs = make_inputs(batch, config)
    threads = torch.get_num_threads()
    results = {}
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            results[count] = cpu.attend(inputs, batch, config).detach()
            assert numba.get_num_threads() == min(count, numba.config.NUMBA_NUM_THREADS)  # type: ignore[attr-defined]
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(results[1], results[2])


def test_leaves_torch_its_number_of_threads_when_numba_starts_its_own() -> None:
    program = (
        "import torch; torch.set_num_threads(1)\n"
        "from crystalframer.kernels import cpu\n"
        "assert torch.get_num_threads() == 1\n"
        "cpu.follow_torch_threads()\n"
        "assert torch.get_num_threads() == 1\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, env={**os.environ, "NUMBA_NUM_THREADS": "2"})


def test_injected_frames_are_used() -> None:
    config = config_for("max")
    batch = make_batch([random_crystal(8)], config.cutoff)
    inputs = make_inputs(batch, config)
    frames = torch.linalg.qr(torch.randn(8, 4, 3, 3, generator=torch.Generator().manual_seed(1))).Q
    got, want = (attend(inputs, batch, config, None, frames) for attend in (cpu.attend, reference.attend))
    own = cpu.attend(inputs, batch, config)
    assert relative_rms(got, want) <= 1e-5
    assert relative_rms(own, want) > 1e-3


def test_other_dtypes_are_refused() -> None:
    config = config_for("max")
    batch = make_batch([random_crystal(2)], config.cutoff)
    inputs = make_inputs(batch, config)
    with pytest.raises(TypeError, match="float32"):
        cpu.attend(doubled(inputs), batch, config)


@pytest.mark.parametrize("preset", ["default", "lightweight"])
def test_chebyshev_series_reproduces_the_gaussians(preset: str) -> None:
    config = config_for("max", preset)
    matrix = chebyshev_matrix(config)
    x = torch.linspace(-1, 1, 4001, dtype=torch.float64)
    polynomials = torch.cos(torch.arange(matrix.shape[1])[:, None] * torch.arccos(x))
    assert matrix.shape[1] % 4 == 2
    assert float((matrix @ polynomials - angular_basis(x, config).T).abs().max()) <= 1.01 * TOLERANCE


def test_compiling_a_loop_is_announced_once(caplog: pytest.LogCaptureFixture) -> None:
    def elsewhere(x: float) -> float:
        return 2 * x

    def loop(x: float) -> float:
        return 3 * x

    def another(x: float) -> float:
        return 4 * x

    loop.__module__ = another.__module__ = cpu_loops.__name__
    compiled = cast(Any, numba.njit)
    compiled(loop)(1.0)  # the program's own announcement, if it was not made before
    caplog.clear()
    said = []
    with event.install_listener("numba:compile", cpu.Announcement()):
        for function in (elsewhere, loop, loop, another):
            compiled(function)(1.0)
            said.append(len(caplog.messages))
    assert said == [0, 1, 1, 1]
    assert "compiling the attention" in caplog.messages[0]
