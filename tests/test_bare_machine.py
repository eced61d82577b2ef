"""A machine with few packages trains on crystals of a store and predicts them: what it lacks is not imported."""

import subprocess
import sys
from pathlib import Path

from crystalframer.config import DataConfig
from crystalframer.data.registry import load_task
from crystalframer.data.store import write_store

ON_A_BARE_MACHINE = """
import sys

class Absent:
    packages = {"ray", "mlflow", "optuna", "matplotlib", "pymatgen", "ase", "gemmi", "spglib"}

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.packages:
            raise ModuleNotFoundError(f"{name} is not on this machine", name=name)

sys.meta_path.insert(0, Absent())

from dataclasses import replace
from pathlib import Path
from crystalframer.config import DataConfig
from crystalframer.resolving import build_trial
from crystalframer.data.dataset import select_task
from crystalframer.data.store import read_store
from crystalframer.prediction import load_predictor
from crystalframer.runs.run_directory import RunDirectory
from crystalframer.runs.tracker import Tracker
from crystalframer.runs.trial import Trial, TrialJob, run_trial
from crystalframer.training.trainer import Trainer

data = select_task(read_store(Path("store")), DataConfig())
data = replace(data, rows={split: rows[data.dataset.num_atoms[rows] <= 4][:6] for split, rows in data.rows.items()})
trial = Trial("bare", build_trial({
    "train.epochs": 1, "train.average_epochs": 1, "train.batch_size": 3, "train.kernel": "reference",
    "model.num_blocks": 1, "model.width": 16, "model.num_heads": 2, "model.ffn_width": 16, "model.num_dist": 8,
    "model.num_angl": 8, "model.cutoff": 4.0, "model.frame": "pca",
}))
for progress in run_trial(TrialJob(trial, RunDirectory(Path("bare"))), data, Tracker(), Trainer):
    pass
print(*load_predictor("bare").predict(data.dataset[int(data.rows["test"][0])]).values.ravel())
"""


def test_trains_and_predicts_without_the_packages_that_read_files_draw_and_track(tmp_path: Path) -> None:
    write_store(tmp_path / "store", load_task(DataConfig()).dataset, {})
    command = [sys.executable, "-c", ON_A_BARE_MACHINE]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert abs(float(done.stdout.splitlines()[-1])) < 20  # eV/atom
