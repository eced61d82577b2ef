"""Where a recorded trial's files are: in its run directory, among MLflow's artifacts on this disk, or on a server."""

import atexit
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from crystalframer.orchestration.tracking.client import connect

CHECKPOINT = "model/checkpoint.pt"
PREDICTIONS = "predictions/test.csv"
SNAPSHOTS = "model/snapshots"
_IN_RUN_DIRECTORY = {"model/checkpoint.pt": "checkpoint.pt", "model/snapshots": "snapshots"}
_PROXIED = "mlflow-artifacts:/"


@dataclass(frozen=True)
class TrialFiles:
    """The files of one trial, named as MLflow's artifacts are."""

    tracking_uri: str
    run_id: str
    artifact_uri: str = ""
    directory: Path | None = None
    """The run directory ``runs/<sweep>/<trial>``, if there is a runs folder."""
    artifacts: Path | None = None
    """The folder ``runs/mlartifacts``, if there is a runs folder."""

    def find(self, name: str) -> Path | None:
        """Return an artifact's file, or folder, on this disk; None where the trial has none."""
        for place in self._places(name):
            if place.exists():
                return place
        if self.directory is None and self.artifact_uri.startswith(_PROXIED):
            return _downloaded(self.tracking_uri, self.run_id, name)
        return None

    def snapshots(self) -> list[Path]:
        """Return the models kept during the training, by epoch."""
        folder = self.find(SNAPSHOTS)
        return sorted(folder.glob("epoch_*.pt")) if folder else []

    def _places(self, name: str) -> list[Path]:
        places = []
        if self.directory is not None:
            places.append(self.directory / _IN_RUN_DIRECTORY.get(name, name))
        if self.artifact_uri.startswith(_PROXIED):
            if self.artifacts is not None:
                places.append(self.artifacts / self.artifact_uri.removeprefix(_PROXIED).lstrip("/") / name)
        elif self.artifact_uri:
            places.append(Path(self.artifact_uri.removeprefix("file://")) / name)
        return places


@cache
def _downloaded(tracking_uri: str, run_id: str, name: str) -> Path | None:
    """Fetch an artifact from a tracking server, once per process."""
    client = connect(tracking_uri)
    folder = name.rpartition("/")[0]
    if all(entry.path != name for entry in client.list_artifacts(run_id, folder or None)):
        return None
    downloads = tempfile.TemporaryDirectory(prefix="crystalframer-analysis-")
    atexit.register(downloads.cleanup)
    return Path(client.download_artifacts(run_id, name, downloads.name))
