"""Several processes that work on one run: ``torchrun --nproc-per-node=N run.py ...``.

Every process has its share of the calibration and evaluation windows; sums over windows (Hessians,
gradients, losses) are added up over the processes, and a block's linear layers are divided among
them. Each has the whole model, but while it is trained end to end (see `crvq.finetune.sharded`).
Process 0 has the run's folder, record and log.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from crvq.errors import ConfigError, QuantizationError

# Zero-shot tasks and training that changes codes are process 0's alone, and others wait for it.
_PATIENCE = timedelta(days=7)


class Team:
    """The processes of a run: this one alone, unless `joined`."""

    rank = 0
    size = 1

    def mine(self, count: int) -> range:
        """Return this process's share of ``count`` things."""
        return range(self.rank, count, self.size)

    def local(self, index: int) -> int | None:
        """Return at which place of its share a process has a thing; None: another one has it."""
        return index // self.size if index % self.size == self.rank else None

    def add_up(self, tensor: Tensor) -> Tensor:
        """Replace a tensor by its sum over all processes, in place."""
        return tensor

    def total(self, values: Sequence[float]) -> list[float]:
        """Return the sums of numbers over all processes, in float64."""
        return list(values)

    def share(self, payload: bytes, source: int = 0) -> bytes:
        """Return the bytes that one process gives."""
        return payload

    def agree(self, flag: bool) -> bool:
        """Return what process 0 says."""
        return flag


class JoinedTeam(Team):
    """Processes that torchrun started."""

    def __init__(self, device: torch.device) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self._device = device

    def add_up(self, tensor: Tensor) -> Tensor:
        """Replace a tensor by its sum over all processes, in place."""
        with _others_alive():
            dist.all_reduce(tensor)
        return tensor

    def total(self, values: Sequence[float]) -> list[float]:
        """Return the sums of numbers over all processes, in float64."""
        summed = torch.tensor(list(values), dtype=torch.float64, device=self._device)
        return self.add_up(summed).tolist()

    def share(self, payload: bytes, source: int = 0) -> bytes:
        """Return the bytes that one process gives.

        As bytes, and not as an object: torch's collectives for objects unpickle what they receive.
        """
        with _others_alive():
            size = torch.tensor([len(payload)], device=self._device)
            dist.broadcast(size, source)
            data = torch.zeros(int(size), dtype=torch.uint8, device=self._device)
            if self.rank == source and payload:
                data.copy_(torch.frombuffer(bytearray(payload), dtype=torch.uint8))
            dist.broadcast(data, source)
        return data.cpu().numpy().tobytes()

    def agree(self, flag: bool) -> bool:
        """Return what process 0 says."""
        return self.share(b"1" if flag else b"0") == b"1"


@contextmanager
def _others_alive() -> Iterator[None]:
    """Say in plain words that another process is gone."""
    try:
        yield
    except RuntimeError as error:
        raise QuantizationError(
            f"another of the {dist.get_world_size()} processes of this run ended (its own message "
            f"says why): {str(error).splitlines()[0][:200]}. Completed blocks are kept: the same "
            "command resumes the run"
        ) from error


_alone = Team()
_current = _alone


def team() -> Team:
    """Return the processes that work on the present run."""
    return _current


def asked_processes(environment: Mapping[str, str] = os.environ) -> int:
    """Return how many processes torchrun started; 1 without it."""
    return int(environment.get("WORLD_SIZE", "1") or 1)


def is_first(environment: Mapping[str, str] = os.environ) -> bool:
    """Return whether this is process 0 of those that torchrun started, or the only one."""
    return int(environment.get("RANK", "0") or 0) == 0


def own_device(name: str, environment: Mapping[str, str] = os.environ) -> str:
    """Return the device of this process: each has its own GPU.

    Args:
        name: the run's ``device``.
        environment: variables, as torchrun sets them.

    Raises:
        ConfigError: one GPU is named for several processes.
    """
    if asked_processes(environment) == 1 or name == "cpu":
        return name
    if name.startswith("cuda:"):
        raise ConfigError(
            f"device={name} is one GPU, and torchrun started {asked_processes(environment)} "
            "processes; set device=cuda, and each has its own"
        )
    if name == "cuda" or torch.cuda.is_available():
        return f"cuda:{int(environment.get('LOCAL_RANK', '0'))}"
    return name


@contextmanager
def joined(device: torch.device) -> Iterator[Team]:
    """Work together with the other processes that torchrun started, if it did.

    Args:
        device: of this process.
    """
    global _current
    if asked_processes() == 1:
        yield _alone
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        # Once per process: a command has several runs (what it compares with, a sweep), and the
        # addresses of a group that was left would be found again by the next.
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=_PATIENCE)
        atexit.register(dist.destroy_process_group)
    _current = JoinedTeam(device if device.type == "cuda" else torch.device("cpu"))
    try:
        yield _current
    finally:
        _current = _alone


def check_share(count: int, what: str, remedy: str) -> None:
    """Refuse work of which a process would have no share.

    Raises:
        ConfigError: says of what, and what to set.
    """
    if count < team().size:
        raise ConfigError(
            f"{what}: {count} for {team().size} processes, so that some would have nothing to do; "
            f"{remedy}, or start fewer processes (torchrun --nproc-per-node={max(1, count)})"
        )
