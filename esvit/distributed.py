"""The processes of a run: one, or the ranks that torchrun started; gloo on the CPU, NCCL on GPUs."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from esvit import failure
from esvit.failure import RefusedElsewhereError
from esvit.launcher import end_with_launcher
from pipeline.errors import UserError

T = TypeVar("T")


class DeviceError(UserError):
    """The device asked for is not on this machine."""


@dataclass(frozen=True)
class World:
    """This process among all: `rank` of `size`, `local_rank` on its node, on `device`."""

    rank: int
    local_rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this rank writes checkpoints and the log."""
        return self.rank == 0

    def wrap(self, network: nn.Module) -> nn.Module:
        """The network wrapped in DDP; unchanged with a single process."""
        if self.size == 1:
            return network
        if self.device.type == "cuda":
            return DistributedDataParallel(network, device_ids=[self.device.index])
        return DistributedDataParallel(network)

    def synchronise_batch_norms(self, networks: nn.Module) -> None:
        """Make the batch norms inside `networks`, teacher included, use the rows of all ranks. On GPUs only.

        On the CPU each rank normalises by its own rows: the backend has no synchronised batch norm.
        """
        if self.size > 1 and self.device.type == "cuda":
            nn.SyncBatchNorm.convert_sync_batchnorm(networks)  # type: ignore[no-untyped-call]

    def mean(self, scalars: dict[str, Tensor]) -> dict[str, float]:
        """Mean of each scalar over the ranks; a collective call that waits for the device."""
        values = torch.stack([value.detach().float() for value in scalars.values()])
        if self.size > 1:
            dist.all_reduce(values)
            values /= self.size
        return dict(zip(scalars, values.tolist(), strict=True))

    def sum(self, values: Tensor) -> Tensor:
        """Sum over the ranks, in place; a collective call."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def any(self, flag: bool) -> bool:
        """Whether `flag` is true on some rank; a collective call."""
        if self.size == 1:
            return flag
        flags = torch.tensor(float(flag), device=self.device)
        dist.all_reduce(flags, op=dist.ReduceOp.MAX)
        return bool(flags.item())

    def min(self, value: Tensor) -> int:
        """Minimum of an integer [] over the ranks; a collective call that waits for the device."""
        least = value.clone()
        if self.size > 1:
            dist.all_reduce(least, op=dist.ReduceOp.MIN)
        return int(least.item())

    def from_main(self, value: str) -> str:
        """The main rank's `value`, on every rank; a collective call."""
        values = [value]
        if self.size > 1:
            dist.broadcast_object_list(values, device=self.device)
        return values[0]

    def from_all(self, value: T) -> list[T]:
        """The `value` of each rank, on every rank; a collective call."""
        values = [value] * self.size
        if self.size > 1:
            dist.all_gather_object(values, value)
        return values

    @contextmanager
    def together(self) -> Iterator[None]:
        """Context for code that may raise a `UserError`: if one rank raises, all do. Its end is a collective call.

        Raises:
            RefusedElsewhereError: only another rank raised.
        """
        refusal = None
        try:
            yield
        except UserError as error:
            refusal = error
        if self.any(refusal is not None):
            raise refusal or RefusedElsewhereError(
                f"rank {self.rank} stops because another rank cannot go on; see that rank's message"
            )

    def barrier(self) -> None:
        """Wait for every rank; a collective call."""
        if self.size > 1:
            dist.barrier()


@contextmanager
def world(device: str) -> Iterator[World]:
    """Join the process group of this run, and leave it at the end. A rank ends when its torchrun ends.

    Args:
        device: "cpu", "cuda", or "auto" for a GPU where there is one.

    Raises:
        DeviceError: `device` is "cuda", and there is no GPU for this rank.
        LostRankError: another rank has failed.
    """
    end_with_launcher()
    here = place(device)
    if here.size > 1:
        _join("nccl" if here.device.type == "cuda" else "gloo")
    try:
        with failure.ending_together(here.rank, here.size):
            yield here
    finally:
        failure.leave()


def _join(backend: str) -> None:
    """Join the process group that torchrun describes.

    When torchrun restarts its ranks, it may keep its store. Gloo would find the addresses of the dead ranks there, so
    each start has names of its own. Only with a single node do all ranks know the same number of restarts.
    """
    store, rank, size = next(rendezvous("env://"))
    if os.environ.get("GROUP_WORLD_SIZE") == "1":
        store = PrefixStore(f"start-{os.environ['TORCHELASTIC_RESTART_COUNT']}", store)
    failure.use(store)
    dist.init_process_group(backend, store=store, rank=rank, world_size=size)


def place(device: str) -> World:
    """This process's place, without joining the process group: make no collective call. Raises as `world` does."""
    rank, local_rank, size = (int(os.environ.get(name, default)) for name, default in _LAUNCHER.items())
    return World(rank, local_rank, size, _device(device, local_rank))


# Set by torchrun; the defaults describe a single process.
_LAUNCHER = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}


def _device(name: str, local_rank: int) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cpu":
        return torch.device("cpu")
    if local_rank >= torch.cuda.device_count():
        raise DeviceError(
            f"rank {local_rank} of this node has no GPU ({torch.cuda.device_count()} found); "
            "start fewer ranks per node, or choose the device cpu"
        )
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)
