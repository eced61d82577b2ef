"""How every process of ours talks to MLflow: quietly, with little patience, and with sentences for what goes wrong."""

import logging
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from crystalframer.environment import holding, reach_directly
from crystalframer.errors import UserError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment, Run

ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING": "true",
    "MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL": "30",  # seconds; many trials share a server
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # who waits longer than seconds is ours to say: buffered.py
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
}
"""Set in every process of ours that talks to MLflow, unless the user set them otherwise."""
PAGE = 1000
"""Runs or experiments per request."""
STARTED_FIRST = "attributes.start_time ASC"
"""Order of runs in which the earliest comes first."""
_PROBE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
"""How patient a first question is."""
_AWAY = ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED", "DEADLINE_EXCEEDED", "ABORTED")


def be_quiet() -> None:
    """Set what every process of ours tells MLflow, before MLflow is imported."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    logging.getLogger("mlflow.system_metrics").setLevel(logging.ERROR)  # it tells of each start, and of a server's end


def connect(tracking_uri: str) -> "MlflowClient":
    """Return a client of a tracking server or database.

    Raises:
        UserError: the address is none that MLflow can use.
    """
    be_quiet()
    reach_directly(tracking_uri)
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    try:
        return MlflowClient(tracking_uri)
    except MlflowException as error:
        raise cannot_use(tracking_uri, error) from error


def all_runs(client: "MlflowClient", experiment_id: str) -> "Iterator[Run]":
    """Return every run of an experiment, in the order in which they were started."""
    return _every(client.search_runs, experiment_ids=[experiment_id], order_by=[STARTED_FIRST])


def all_experiments(client: "MlflowClient") -> "Iterator[Experiment]":
    """Return every experiment, the one that was changed last first."""
    return _every(client.search_experiments, order_by=["last_update_time DESC"])


def _every(search: Callable[..., Any], **arguments: Any) -> Iterator[Any]:
    """Return all that a search finds, page after page."""
    token: str | None = None
    while True:
        page = search(**arguments, max_results=PAGE, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def check_server(tracking_uri: str) -> None:
    """Check that an MLflow server answers at an address and lets us in, asked as it will be asked later.

    Raises:
        UserError: none answers, it refuses the login, or it is another program.
    """
    client = connect(tracking_uri)
    from mlflow.exceptions import MlflowException

    try:
        with holding(_PROBE):
            client.search_experiments(max_results=1)
    except (MlflowException, ValueError) as error:  # JSON that is none is a ValueError
        raise UserError(_why_not(tracking_uri, error)) from error


def _why_not(tracking_uri: str, error: Exception) -> str:
    from mlflow.server.security_utils import INVALID_HOST_MSG

    code = getattr(error, "error_code", "")
    if INVALID_HOST_MSG in str(error):
        host = urlsplit(tracking_uri).netloc
        return (
            f"the MLflow server at {tracking_uri} does not let itself be called {host}: whoever runs it starts it with "
            f"`mlflow server --allowed-hosts {host}`"
        )
    if code in ("UNAUTHENTICATED", "PERMISSION_DENIED"):
        return (
            f"the MLflow server at {tracking_uri} refuses the login: set MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
        )
    if is_away(error) and "not in a valid JSON format" not in str(error):
        return f"no MLflow server answers at {tracking_uri}; check --tracking-uri, or leave it out for a local one"
    return f"what answers at {tracking_uri} is no MLflow server; check --tracking-uri, or leave it out for a local one"


def is_away(error: Exception) -> bool:
    """Return whether an error of MLflow's client means that its server, or the server's database, cannot be reached."""
    import requests
    from mlflow.exceptions import MlflowException

    if isinstance(error, MlflowException):
        return error.error_code in _AWAY
    if isinstance(error, requests.HTTPError):
        return error.response is None or error.response.status_code >= 500
    return isinstance(error, requests.RequestException | ConnectionError)


def cannot_use(tracking_uri: str, error: Exception) -> UserError:
    """Return what to say of an address that MLflow refuses."""
    reason = str(error).strip().partition("\n")[0]
    return UserError(f"cannot use MLflow at {tracking_uri}: {reason}; check --tracking-uri")
