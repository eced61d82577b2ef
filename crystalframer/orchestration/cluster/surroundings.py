"""Finding the cluster that a sweep runs on: its address, its tracking server, its storage.

The same command runs everywhere because the surroundings say where it is: Ray's ``RAY_ADDRESS`` (set inside a `ray
job`, and on the head of our clusters), MLflow's ``MLFLOW_TRACKING_URI`` (else the server on the head's port 5000),
and ``CRYSTALFRAMER_RUNS`` for the folder of results on the storage that all nodes share.
"""

import argparse
import platform
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from crystalframer.environment import require_processes, variable
from crystalframer.errors import UserError
from crystalframer.orchestration.tracking import gate
from crystalframer.orchestration.tracking.addresses import tracking_address
from crystalframer.orchestration.tracking.server import MLFLOW_PORT, START_SECONDS, LocalMlflowServer, is_answering

RUNS_VARIABLE = "CRYSTALFRAMER_RUNS"
"""Environment variable that names the folder of results."""
PORT_VARIABLE = "CRYSTALFRAMER_TRACKING_PORT"
"""Environment variable that says that the head has a tracking server, and where; it may still be on its way."""
PROBE_SECONDS = 60.0
"""How long a node may take to say what it sees."""


@contextmanager
def surroundings(address: str | None, runs: Path, tracking_uri: str | None) -> Iterator[tuple[str | None, str | None]]:
    """Join the cluster if there is one, check its storage, and find or start its tracking server.

    Args:
        address: the cluster as named on the command line, None for what `find_address` finds.
        runs: the folder of results.
        tracking_uri: the tracking server that the command line names, if any; else ``MLFLOW_TRACKING_URI`` counts.

    Yields:
        The addresses of the Ray cluster and of the MLflow server, None where it is one of our own on this machine.

    Raises:
        UserError: the user may not start what a Ray of our own takes; the cluster does not answer, does not share the
            folder, or cannot have a tracking server.
    """
    address, tracking_uri = find_address(address), tracking_address(tracking_uri)
    if address is None:
        require_processes()
        yield None, tracking_uri
        return
    from crystalframer.orchestration.cluster.session import ray_session

    with ExitStack() as stack:
        if tracking_uri is None:
            gate.sign_in()
        stack.enter_context(ray_session(address))
        runs.mkdir(parents=True, exist_ok=True)
        check_visible(runs.absolute())
        if tracking_uri is None:
            tracking_uri = head_tracking_uri()
        if tracking_uri is None:
            server = stack.enter_context(start_tracking_server(runs))
            server.wait_until_ready()
            tracking_uri = server.uri
        yield address, tracking_uri


def find_address(given: str | None) -> str | None:
    """Return the Ray cluster to join: the one that was named, else the surroundings', None for a Ray of our own.

    Raises:
        UserError: it is none, or one where jobs are submitted and no sweep can join: a dashboard's or Ray Client's.
    """
    address = given or variable("RAY_ADDRESS")
    if address is None or address == "local":
        return None
    origin = "--address" if given else "RAY_ADDRESS"
    for start, whose in (
        ("http", "a dashboard's address"),
        ("ray://", "Ray Client's address, which runs no sweep"),
    ):
        if address.startswith(start):
            raise UserError(
                f"{origin} is {address!r}, {whose}: submit the command with `ray job submit -- ...`, or name the "
                "cluster itself, e.g. auto on one of its nodes"
            )
    if address != "auto" and not re.fullmatch(r"\S+:\d+", address):
        raise UserError(f"{origin} is {address!r}, expected HOST:PORT of a Ray cluster's head, or auto on its nodes")
    return address


def default_runs() -> Path:
    """Return the folder of results: that of the surroundings, else ``runs`` here."""
    return runs_folder(variable(RUNS_VARIABLE) or "runs")


def runs_folder(text: str) -> Path:
    """Return a folder of results as it is given on a command line: a path, or a file:// address.

    Raises:
        argparse.ArgumentTypeError: it is on a storage without locks and atomic renames, which keep a trial's state
            whole.
    """
    scheme, separator, rest = text.partition("://")
    if not separator:
        return Path(text)
    if scheme == "file" and rest.startswith("/"):
        return Path(rest)
    raise argparse.ArgumentTypeError(
        f"got {text!r}, expected a folder: run directories need a file system with locks that every node mounts (EFS, "
        "NFS, Lustre ...); object storage is for the MLflow server's artifacts"
    )


def check_visible(folder: Path) -> None:
    """Check that every node of the joined cluster sees a folder, writes there, and is seen.

    Raises:
        UserError: a node does not; the sentence names it.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from crystalframer.orchestration.cluster.session import alive_nodes

    nodes = alive_nodes()
    mark = folder / f".probe-{secrets.token_hex(8)}"
    mark.mkdir()
    look = ray.remote(num_cpus=0, max_retries=1)(_look)
    try:
        tasks = [
            look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
                str(mark), node["NodeID"]
            )
            for node in nodes
        ]
        try:
            reasons = ray.get(tasks, timeout=PROBE_SECONDS)
        except (ray.exceptions.GetTimeoutError, ray.exceptions.RayError) as error:
            raise UserError(
                f"not every node of the cluster answered within {PROBE_SECONDS:g} s ({type(error).__name__}); see `ray "
                "status`"
            ) from error
        seen = {path.name for path in mark.iterdir()}
        for node, reason in zip(nodes, reasons, strict=True):
            if reason is None and node["NodeID"] not in seen:
                reason = "what it writes there is not seen here"
            if reason is not None:
                raise UserError(
                    f"the folder of results {folder} is not shared with node {node['NodeManagerHostname']} "
                    f"({node['NodeManagerAddress']}: {reason}); name one on storage that every node mounts, with "
                    f"--runs or {RUNS_VARIABLE}"
                )
    finally:
        for path in mark.iterdir():
            path.unlink()
        mark.rmdir()


def _look(mark: str, name: str) -> str | None:
    """Run on a node: return why the folder is of no use there, or None and leave a file."""
    if not Path(mark).is_dir():
        return "it is not there"
    try:
        (Path(mark) / name).touch()
    except OSError as error:
        return f"it cannot be written to, {error.strerror}"
    return None


def require_visible(marker: Path) -> None:
    """Check, on a worker, that it sees a file that the driver made; nodes may join after `check_visible`.

    Raises:
        UserError: it does not.
    """
    if not marker.exists():
        raise UserError(
            f"the folder of results {marker.parent} is not shared with node {platform.node()}; name one on storage "
            f"that every node mounts, with --runs or {RUNS_VARIABLE}"
        )


def head_tracking_uri() -> str | None:
    """Return the address of the tracking server on the joined cluster's head, None where there is none.

    Raises:
        UserError: there should be one, but it does not answer.
    """
    import ray

    host = str(ray.get_runtime_context().gcs_address).rpartition(":")[0]
    promised = variable(PORT_VARIABLE)
    uri = f"http://{host}:{promised or MLFLOW_PORT}"
    deadline = time.monotonic() + (START_SECONDS if promised else 0.0)
    while not is_answering(uri):
        if time.monotonic() >= deadline:
            if promised:
                raise UserError(
                    f"the cluster's MLflow server does not answer at {uri}; see ~/mlflow/server.log on the head, or "
                    "name another one with MLFLOW_TRACKING_URI"
                )
            return None
        time.sleep(1.0)
    return uri


def start_tracking_server(runs: Path) -> LocalMlflowServer:
    """Start a tracking server that every node of the joined cluster can reach, for as long as the sweep runs.

    Raises:
        UserError: there is more than one node and no token that would keep strangers out.
    """
    import ray

    from crystalframer.orchestration.cluster.session import alive_nodes

    address: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
    if gate.password() is None:
        alive = alive_nodes()
        if len(alive) == 1 and alive[0]["NodeManagerAddress"] == address:
            return LocalMlflowServer(runs)
        raise UserError(
            f"no MLflow server answers on the head's port {MLFLOW_PORT}, and the cluster has no token to keep "
            "strangers out of one started now: name a server with MLFLOW_TRACKING_URI, or start the cluster with "
            "RAY_AUTH_MODE=token"
        )
    return LocalMlflowServer(runs, reachable_as=address)
