"""The parts of the benchmark: rounds, stages inside a step, workloads, what parity leaves out."""

import time
from dataclasses import replace
from typing import Any

import numba
import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.settings import QUICK, REAL, Settings, check, model_config
from benchmarks.stages import STAGES, measure_stages
from benchmarks.timing import Sample, Spread, interleaved, ratio, threads
from benchmarks.workload import LEAST_CRYSTALS, Subject, make_workload
from crystalframer.config import DataConfig
from crystalframer.data.registry import load_task
from crystalframer.errors import UserError
from crystalframer.geometry.crystal import Crystal
from crystalframer.kernels import AttentionInputs, parity, reference
from crystalframer.kernels.frames import TIE_TOLERANCE
from crystalframer.resolving import build_trial

CPU = torch.device("cpu")


class Clock:
    """A clock that moves on only when told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)

    def pass_in_backward(self, x: Tensor, seconds: float) -> Tensor:
        """Return x; the clock moves on when the backward pass comes by."""
        x = x.view_as(x)
        x.register_hook(lambda _grad: self.pass_by(seconds))  # type: ignore[no-untyped-call]
        return x

    def pass_by(self, seconds: float) -> None:
        self.now += seconds


def test_rounds_take_turns_and_turn_round() -> None:
    calls: list[str] = []
    samples = interleaved({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 3, 0.0, CPU)
    assert "".join(calls) == "ab" + "ab" + "ba" + "ab"
    assert {key: len(found) for key, found in samples.items()} == {"a": 3, "b": 3}


def test_quick_calls_are_repeated_and_time_is_per_call(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    samples = interleaved({"quick": lambda: clock.pass_by(2), "slow": lambda: clock.pass_by(30)}, 3, 9, CPU)
    assert [sample.wall for sample in samples["quick"]] == [2] * 3
    assert [sample.wall for sample in samples["slow"]] == [30] * 3
    assert clock.now == (2 + 30) + 3 * (5 * 2 + 30)


def test_the_ratio_is_taken_within_rounds() -> None:
    slow, fast = [Sample(wall, 0.0) for wall in (10, 100, 10)], [Sample(wall, 0.0) for wall in (1, 10, 2)]
    assert ratio(slow, fast) == 10
    spread = Spread.of([Sample(1, 3), Sample(4, 5), Sample(2, 9)], scale=10)
    assert (spread.median, spread.low, spread.high, spread.cpu) == (20, 10, 40, 50)


def test_threads_are_given_back() -> None:
    numba.get_num_threads()  # the first call of a process changes torch's
    before = torch.get_num_threads(), numba.get_num_threads()
    with threads(1):
        assert (torch.get_num_threads(), numba.get_num_threads()) == (1, 1)
    assert (torch.get_num_threads(), numba.get_num_threads()) == before


def tiny_subject() -> Subject:
    config = build_trial({"model.frame": "none", "model.width": 16, "model.num_heads": 2, "model.cutoff": 4.0}).model
    workload = make_workload(replace(QUICK, atoms=4, cutoff=4.0), "2")
    return Subject("reference", config, workload.collate(workload.geometries(), CPU))


def test_stages_see_the_kernel_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    attend, clock, subject = reference.attend, Clock(monkeypatch), tiny_subject()
    blocks = len(subject.model.levels)

    def slow(inputs: AttentionInputs, *others: Any) -> Tensor:
        clock.pass_by(1)
        inputs = replace(inputs, query=clock.pass_in_backward(inputs.query, 2))
        return clock.pass_in_backward(attend(inputs, *others), 3)

    monkeypatch.setattr(reference, "attend", slow)
    subject.model.head_out.register_forward_hook(lambda *_: clock.pass_by(5))
    subject.model.head_out.register_full_backward_hook(lambda *_: clock.pass_by(8))
    subject.optimizer.register_step_pre_hook(lambda *_: clock.pass_by(7))
    stages = {stage: [sample.wall for sample in samples] for stage, samples in measure_stages(subject, 2).items()}
    assert stages == {
        "kernel_forward": [blocks] * 2,
        "kernel_backward": [5 * blocks] * 2,
        "dense": [13] * 2,
        "optimizer": [7] * 2,
    }
    assert tuple(stages) == STAGES


def test_timers_leave_the_step_as_it_is() -> None:
    plain, watched = tiny_subject(), tiny_subject()
    for _ in range(2):
        plain.step()
    measure_stages(watched, 1)
    assert torch.equal(
        torch.cat([p.flatten() for p in plain.parameters]), torch.cat([p.flatten() for p in watched.parameters])
    )


def test_batches_hold_the_atoms_asked_for() -> None:
    settings = Settings(atoms=64)
    small, large = make_workload(settings, "8"), make_workload(settings, "100")
    assert (len(small.crystals), len(large.crystals)) == (8, LEAST_CRYSTALS)
    assert small.atoms_per_crystal == 8
    assert len({crystal.lattice.tobytes() for crystal in small.crystals}) == 8
    batch = small.collate(small.geometries(), CPU)
    assert 60 < batch.num_edges / batch.num_atoms < 100
    assert batch.targets is not None
    assert batch.targets.shape == (8, 1)


def test_real_crystals_stand_for_the_training_set() -> None:
    data = load_task(DataConfig())
    workload = make_workload(Settings(), REAL)
    rows = data.rows["train"]
    mean = float(data.dataset.num_atoms[rows].mean())
    assert workload.epoch_crystals == len(rows)
    assert workload.atoms_per_crystal == pytest.approx(mean, rel=0.05)
    train = {str(data.dataset.ids[row]) for row in rows}
    ids = [crystal.id for crystal in workload.crystals]
    assert set(ids) <= train
    assert len(ids) == len(set(ids))


def test_variants_and_defaults() -> None:
    settings = check(replace(Settings(), frames=("none", "max")))
    assert settings.variants == [("none", "default"), ("max", "default"), ("max", "lightweight")]
    assert settings.kernels == ("reference", "cpu")
    assert check(replace(settings, kernels=(), device="cuda:0")).kernels == ("reference", "triton")
    assert model_config(settings, "max", "lightweight").num_angl == 16


def test_parity_leaves_out_frames_that_hang_by_rounding() -> None:
    """Two neighbours tie for the first axis or not, by a rounding error; if they do, training draws one of them."""
    config = build_trial({"model.frame": "static_local", "model.cutoff": 4.0, "model.num_heads": 1}).model
    clear, close = (
        Crystal(10 * np.eye(3), np.array([[0, 0, 0], [2.0, 0, 0], [0, far, 0]]) / 10, np.array([1, 2, 3]))
        for far in (2.5, 2 + 0.25 * TIE_TOLERANCE)
    )

    def undecided(crystal: Crystal, tie_seed: int) -> list[bool]:
        batch = parity.make_batch([crystal], config.cutoff)
        heads = parity.undecided_heads(parity.make_inputs(batch, config), batch, config, tie_seed)
        return heads[:, 0].tolist()

    assert all(undecided(clear, seed) == [False, False, False] for seed in range(4))
    found = [undecided(close, seed) for seed in range(4)]
    assert [True, False, False] in found
    assert all(others == [False, False] for _, *others in found)
    seed = found.index([True, False, False])
    with pytest.raises(UserError, match="rounding decides 33%"):
        parity.compare(reference.attend, [close], config, seed, leave_out_undecided=True)
