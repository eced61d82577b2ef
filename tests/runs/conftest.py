"""The small sweep of the orchestration's tests, and their MLflow."""

from tests.orchestration.conftest import (
    mlflow_runs,
    one_thread,
    start_driver,
    studies_are_closed,
    tiny_config,
    tiny_data,
    write_sweep,
)

__all__ = ["mlflow_runs", "one_thread", "start_driver", "studies_are_closed", "tiny_config", "tiny_data", "write_sweep"]
