"""Several processes that train one model together: what they share, and what they say to each other.

Every process holds the whole model, computes the gradient of its share of each batch, and receives the sum; so all
take the same step. It needs torch alone: gloo between processors, NCCL between GPUs.
"""

import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed

from crystalframer.errors import UserError

T = TypeVar("T")

TIMEOUT = timedelta(minutes=10)
"""How long a process waits for the others; one that died is noticed at once, one behind a broken link only then."""


class LostProcessError(RuntimeError):
    """Another process of the training is gone."""


class Processes:
    """The processes of one training and this one's place among them; by default it is alone."""

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        """Name a place; `joined` makes more than one."""
        self.rank = rank
        self.size = size

    @property
    def is_first(self) -> bool:
        """Whether this is the process that says, saves and decides."""
        return self.rank == 0

    def add_up(self, tensor: Tensor) -> Tensor:
        """Replace a tensor by its sum over all processes, the same bits everywhere."""
        if self.size > 1:
            with _losses_noticed():
                distributed.all_reduce(tensor)
        return tensor

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set in any process."""
        return bool(self.add_up(torch.tensor(float(flag))) > 0)

    def from_first(self, make: Callable[[], T]) -> T:
        """Return to every process what the first one made; a `UserError` there is one everywhere."""
        if self.size == 1:
            return make()
        made: list[tuple[T | None, str | None]] = [(None, None)]
        if self.is_first:
            try:
                made = [(make(), None)]
            except UserError as error:
                made = [(None, str(error))]
        with _losses_noticed():
            distributed.broadcast_object_list(made, device=torch.device("cpu"))
        value, problem = made[0]
        if problem is not None:
            raise UserError(problem)
        return value  # type: ignore[return-value]

    def same_as_first(self, tensors: list[Tensor]) -> None:
        """Replace tensors by those of the first process."""
        if self.size > 1:
            with _losses_noticed(), torch.no_grad():
                for tensor in tensors:
                    distributed.broadcast(tensor, src=0)

    def gathered(self, values: NDArray[np.float64], mine: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Return an array to which every process contributes the entries (along the first axis) that are its own."""
        if self.size == 1:
            return values
        own = np.where(mine.reshape(-1, *[1] * (values.ndim - 1)), values, 0.0)
        return self.add_up(torch.from_numpy(own)).numpy()


@dataclass(frozen=True)
class Channel:
    """How a process of a training talks with the program that started it."""

    send: Callable[[Any], None]
    """Takes what is to be shown: a line of text, or where training stands."""
    stop_requested: Callable[[], bool]
    """Tells whether training shall stop after the step under way."""


ALONE = Processes()
"""A training in one process."""


@contextmanager
def joined(rank: int, size: int, address: str, device: torch.device) -> Iterator[Processes]:
    """Meet the other processes for the duration of the block.

    Args:
        rank: this process' number, from 0.
        size: number of processes.
        address: where they meet, ``tcp://HOST:PORT`` of process 0 or ``file:///PATH`` on one host.
        device: where this process' model lives.
    """
    if device.type == "cuda":
        torch.cuda.set_device(device)
    with _losses_noticed():
        distributed.init_process_group(
            "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
            init_method=address,
            rank=rank,
            world_size=size,
            timeout=TIMEOUT,
        )
    try:
        yield Processes(rank, size)
    finally:
        distributed.destroy_process_group()


def split_by_cost(costs: NDArray[np.int64], parts: int) -> list[slice]:
    """Cut a batch into consecutive parts of about equal cost.

    Args:
        costs: (S,) of each crystal.
        parts: how many; more than S leave some empty.

    Returns:
        `parts` slices that cover 0 … S − 1 in order. No cut could lie nearer to equal shares.
    """
    ends = np.concatenate([[0], np.cumsum(costs)])
    wanted = ends[-1] * np.arange(1, parts) / parts
    above = np.searchsorted(ends, wanted)
    nearer_below = wanted - ends[above - 1] < ends[above] - wanted
    cuts = [0, *(above - nearer_below).tolist(), len(costs)]
    return [slice(start, stop) for start, stop in itertools.pairwise(cuts)]


def use_loopback() -> None:
    """Let processes of one host meet on its loopback interface, unless the environment names another."""
    if os.uname().sysname == "Linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")


@contextmanager
def _losses_noticed() -> Iterator[None]:
    try:
        yield
    except distributed.DistError as error:
        raise LostProcessError(_LOST) from error
    except RuntimeError as error:
        if not any(sign in str(error) for sign in _SIGNS_OF_LOSS):
            raise
        raise LostProcessError(_LOST) from error


_LOST = "another process of the training is gone"
_SIGNS_OF_LOSS = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Timed out", "timed out")
