"""The Ray that trials run on: one of our own on this machine, or a cluster that is joined.

Importing this module imports Ray, which takes seconds.
"""

import logging
import os
import re
import secrets
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import ray
from ray._private import ray_constants
from ray.exceptions import AuthenticationError

from crystalframer.environment import SHORT_PATH, cores, has_semaphores, home, temporary_folder, variable
from crystalframer.errors import UserError, require_no_lack
from crystalframer.orchestration.cluster.jobs import Resources
from crystalframer.orchestration.tracking import client

CONNECT_SECONDS = 10.0
"""How long the head of a cluster may take to accept a connection."""
GROWING = "ray_bootstrap_config.yaml"
"""What `ray up` leaves in the home of a head whose cluster starts and ends nodes by itself."""
STARTS = 3
"""How often a Ray of our own is started where the machine is too busy for it to be there in time."""
OBJECT_STORE_BYTES = 100 * 1024**2
"""Ray's shared memory on one machine; trials share files, not objects."""
_QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}


@contextmanager
def ray_session(address: str | None, num_cpus: int | None = None) -> Iterator[None]:
    """Start a local Ray for the duration of the block, or join the cluster at `address`, unless that was done already.

    Raises:
        UserError: no cluster answers at the address, or it does not let us in.
    """
    if ray.is_initialized():
        yield
        return
    logging.getLogger("ray").setLevel(logging.CRITICAL)  # the screen tells what matters, errors reach us as values
    with ExitStack() as stack:
        if address is None:
            _start_own(num_cpus, stack.enter_context(_private_folder()))
        else:
            _join(address)
        stack.callback(ray.shutdown)
        yield


def _start_own(num_cpus: int | None, folder: str) -> None:
    _stay_on_loopback()
    os.environ |= client.ENVIRONMENT  # inherited by the workers
    # only who holds this process's token is let in, even among the users of this machine
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    # trials run with the priority of the command, as `crystalframer train` does; Ray's own default, 15 lower, leaves
    # them a thirtieth of a core that anybody else computes on
    os.environ.setdefault("RAY_worker_niceness", "0")
    for left in reversed(range(STARTS)):
        try:
            ray.init(
                address="local",
                num_cpus=num_cpus or cores(),
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                _temp_dir=folder,
                _plasma_directory=None if has_semaphores() else folder,
                **_QUIET,
            )
            return
        except Exception as error:  # re-raised unless Ray's own patience of half a minute was too short
            if "timed out during startup" not in str(error):
                raise
            if not left:
                raise UserError(
                    f"Ray did not start within half a minute, {STARTS} times in a row: this machine is too busy; see "
                    "what else runs there, and run the same command again later"
                ) from error


def _join(address: str) -> None:
    require_listener(address)
    try:  # no secret in a runtime_env: Ray writes it into its logs
        ray.init(address=address, runtime_env={"env_vars": client.ENVIRONMENT}, **_QUIET)
    except ConnectionError as error:
        raise _no_cluster(address) from error
    except RuntimeError as error:
        versions = re.findall(r"(Ray|Python): (\S+)", str(error)) if "Version mismatch" in str(error) else []
        if len(versions) != 4:
            raise
        theirs, ours = (f"{names[0][1]} on Python {names[1][1]}" for names in (versions[:2], versions[2:]))
        raise UserError(
            f"the Ray cluster at {address!r} is Ray {theirs}, here is Ray {ours}: run the command in the cluster's own "
            "environment, or install its versions here"
        ) from error
    except AuthenticationError as error:
        raise UserError(
            f"the Ray cluster at {address!r} asks for its token: set RAY_AUTH_MODE=token, and put the token that "
            "`ray get-auth-token` shows on its head into ~/.ray/auth_token"
        ) from error


def require_listener(address: str) -> None:
    """Check that something listens where a cluster should be; Ray itself would try for a quarter of an hour.

    Raises:
        UserError: nothing does.
    """
    host, separator, port = address.rpartition(":")
    if not separator or not port.isdecimal():
        return  # e.g. auto, for which Ray looks on this machine alone
    try:
        socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
    except OSError as error:
        require_no_lack(error)
        raise _no_cluster(address) from error


def _no_cluster(address: str) -> UserError:
    origin = "RAY_ADDRESS" if address == variable("RAY_ADDRESS") else "--address"
    remedy = "unset it" if origin == "RAY_ADDRESS" else "leave it out"
    return UserError(f"no Ray cluster answers at {origin} {address!r}; start one, or {remedy} for a Ray of its own")


def check_resources(resources: Resources) -> None:
    """Check that some node, as the cluster is now, could run a trial; one that grows by itself may yet get such a node.

    Raises:
        UserError: none could, and Ray would wait forever.
    """
    if (home() / GROWING).exists():
        return
    for what, needed, most in _lacking(resources):
        raise UserError(
            f"a trial asks for {needed:g} {what}s but no machine here has more than {most:g}: run the sweep on a "
            f"larger machine or cluster (--address), or ask for less with --set resources.{what.lower()}s_per_trial=N"
        )


def waiting_for(resources: Resources) -> str:
    """Return what a trial asks for and no node has at present, e.g. "1 GPU" or "4 CPUs"; "" where some node has it."""
    return " and ".join(f"{needed:g} {what}{'s' if needed > 1 else ''}" for what, needed, _ in _lacking(resources))


def alive_nodes() -> list[dict[str, Any]]:
    """Return the nodes of the cluster that are there, as Ray describes them."""
    return [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]


def _lacking(resources: Resources) -> Iterator[tuple[str, float, float]]:
    """Yield what no node has enough of, how much a trial asks for, and the most that a node has."""
    nodes = [node["Resources"] for node in alive_nodes()]
    for what, needed in (("CPU", float(resources.cpus_per_trial)), ("GPU", resources.gpus_per_trial)):
        most = max((node.get(what, 0.0) for node in nodes), default=0.0)
        if needed > most:
            yield what, needed, most


def _stay_on_loopback() -> None:
    """Let a Ray of our own be reached from this machine alone.

    Ray knows this as its way on other systems than Linux, and reads the variable once, when it is imported: its
    children get the variable, this process the value.
    """
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    ray_constants.ENABLE_RAY_CLUSTER = False


@contextmanager
def _private_folder() -> Iterator[str]:
    """Name a folder for Ray's sockets and logs within one that nobody else can enter, and remove both at the end.

    Ray lets everybody write to its own folder. Paths of sockets must stay below about 100 characters, hence short
    names, and another folder where the temporary folder's own path is long.
    """
    folder = tempfile.mkdtemp(prefix="crystal-", dir=temporary_folder(longest=SHORT_PATH))
    try:
        yield f"{folder}/ray"
    finally:
        shutil.rmtree(folder, ignore_errors=True)
