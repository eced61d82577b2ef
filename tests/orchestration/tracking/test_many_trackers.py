"""64 trials log at once to one server: no point is lost, none is there twice."""

from pathlib import Path

import pytest

from tests.orchestration.many_trackers import log_at_once, lost


@pytest.mark.slow
def test_64_trials_at_once(mlflow_runs: tuple[Path, str]) -> None:
    _, uri = mlflow_runs
    log_at_once(uri, "many")
    assert lost(uri, "many") == 0
