"""The Ray that trials run on: one of our own on this machine, or a cluster that is joined.

Importing this module imports Ray, which takes seconds.
"""

import logging
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import AuthenticationError

from crystalframer.errors import UserError
from crystalframer.orchestration.cluster.jobs import Resources
from crystalframer.orchestration.tracking import experiment, gate

OBJECT_STORE_BYTES = 100 * 1024**2
"""Ray's shared memory on one machine; trials share files, not objects."""


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
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    if address is None:
        os.environ |= experiment.ENVIRONMENT  # inherited by the workers
        # only who holds this process's token is let in, even among the users of this machine
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        ray.init(
            address="local",
            num_cpus=num_cpus,
            include_dashboard=False,
            object_store_memory=OBJECT_STORE_BYTES,
            _temp_dir=_short_temporary_folder(),
            **quiet,
        )
    else:
        try:
            ray.init(address=address, runtime_env={"env_vars": experiment.ENVIRONMENT | gate.credentials()}, **quiet)
        except ConnectionError as error:
            raise UserError(f"no Ray cluster answers at --address {address!r}; start one, or leave it out") from error
        except AuthenticationError as error:
            raise UserError(
                f"the Ray cluster at {address!r} asks for its token: set RAY_AUTH_MODE=token, and put the token that "
                "`ray get-auth-token` shows on its head into ~/.ray/auth_token"
            ) from error
    try:
        yield
    finally:
        ray.shutdown()


def check_resources(resources: Resources) -> None:
    """Check that this machine, or the cluster as it is now, could run at least one trial.

    Raises:
        UserError: it could not, and Ray would wait forever.
    """
    available: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    for what, needed in (("CPU", float(resources.cpus_per_trial)), ("GPU", resources.gpus_per_trial)):
        if needed > available.get(what, 0.0):
            raise UserError(
                f"a trial asks for {needed:g} {what}s but there are {available.get(what, 0.0):g} here: run the sweep "
                f"on a larger machine or cluster (--address), or ask for less with "
                f"--set resources.{what.lower()}s_per_trial=N"
            )


def _short_temporary_folder() -> str:
    """Return where Ray may keep its sockets, whose paths must stay below about 100 characters."""
    folder = Path(tempfile.gettempdir()) / f"crystalframer-ray-{os.getuid()}"
    return str(folder if len(str(folder)) < 40 else Path("/tmp") / folder.name)
