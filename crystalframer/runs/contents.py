"""What the JSON files of a run directory say."""

from dataclasses import dataclass
from typing import Any, Literal

from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

TrialStateName = Literal["waiting", "running", "stopped", "failed", "done"]


@dataclass(frozen=True)
class TrialState:
    """Where a trial stands."""

    state: TrialStateName
    attempt: str
    """Id of the attempt that wrote this."""
    epoch: int
    """Epochs that the checkpoint holds."""
    epochs: int
    """Epochs of the whole trial."""
    reason: str = ""
    """Why it failed, in one line."""
    updated: float = 0.0
    """Seconds since 1970, when this was written."""
    peak_bytes: int | None = None
    """Most memory of the device that this attempt has held, None where there is no such device."""
    device_bytes: int | None = None
    """Memory of the device."""


@dataclass(frozen=True)
class EarlyStop:
    """A search's decision that a trial ends here; the trial's checkpoint holds this epoch."""

    epoch: int
    val_mae: float
    reason: str


class TrialIdentity(TypedDict):
    """What ``config.json`` says the trial is."""

    fingerprint: str
    dataset_fingerprint: str
    settings: dict[str, dict[str, Any]]
    """As `TrialConfig.to_dict` writes them."""


class StepRecord(TypedDict):
    """`StepMetrics` as plain values."""

    step: int
    time_ms: int
    values: dict[str, float]


class TrialResult(TypedDict):
    """What ``done.json`` says; errors are in the target's unit."""

    trial: str
    unit: str
    val_mae: float
    test_mae: float
    test_rmse: float
    baseline_mae: float
    """Test MAE of predicting the training mean."""
    tags: dict[str, str]
    """Those of the MLflow run."""
    final: StepRecord
