"""The processes of one run, as `accelerate launch` or torchrun starts them: who this is, whose share, sums over all.

Notable decisions:

* Every process runs the same program on the same data and takes the same decisions, as whatever decisions rest on is
  summed or gathered over all of them. Alone (`size` 1), everything here does nothing.
* What is gathered travels as JSON, never as a pickle.
* Sums are the same to the bit on every rank, though not for every number of ranks.
* A process that loses another ends too; of all of them only the first to fail speaks.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from cca.errors import CcaError

T = TypeVar("T")
TIMEOUT = timedelta(hours=6)
"""How long a rank waits for the others; one that died is noticed at once."""
FAILED = "cca/failed"


class PeerLost(CcaError):
    """Another process of the run ended before its time."""


def initialise() -> None:
    """Meet the other processes, where a launcher started this one. Raises CcaError when they cannot be met."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2 or dist.is_initialized():
        return
    unwanted = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("true", "1")
    on_gpu = torch.cuda.is_available() and not unwanted
    place = _local_rank()
    if on_gpu:
        if place >= torch.cuda.device_count():
            raise CcaError(
                f"expected a GPU for each process on this machine, got {torch.cuda.device_count()}; "
                "lower --num_processes"
            )
        torch.cuda.set_device(place)
    with _together():
        dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", timeout=TIMEOUT)


def size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def is_main() -> bool:
    """Whether this process writes the run folder and talks."""
    return rank() == 0


def device_map() -> str | None:
    """Where this process puts its model: on its own GPU, where the processes have GPUs."""
    on_gpu = size() > 1 and dist.get_backend_config().find("nccl") >= 0
    return f"cuda:{_local_rank()}" if on_gpu else None


def speaks_for_failure() -> bool:
    """Whether this process, which has failed, is the one to say why: the first of all to ask."""
    if size() == 1:
        return True
    try:
        return dist.distributed_c10d._get_default_store().add(FAILED, 1) == 1
    except RuntimeError:  # the process that keeps the store is gone, and has spoken if it could
        return False


def my_share(count: int) -> list[tuple[int, bool]]:
    """This rank's numbers out of ``count``, and whether each counts.

    All ranks get as many, since with a sharded model every forward pass is one of all ranks: where there are too few
    to go round, a rank repeats one that does not count.
    """
    own = [(number, True) for number in range(rank(), count, size())]
    missing = -(-count // size()) - len(own)
    return own + [(count - 1, False)] * missing


def even_batch_size(count: int, most: int) -> int:
    """A batch size of at most ``most`` that gives all ranks about as much of ``count`` to do."""
    if size() == 1 or most < 1:
        return most
    rounds = -(-count // (most * size()))
    return max(1, -(-count // (rounds * size())))


def all_reduce_sums(*numbers: float) -> list[float]:
    """The sums over all ranks."""
    summed = torch.tensor(numbers, dtype=torch.float64)
    all_reduce_(summed)
    return summed.tolist()


def all_reduce_(tensor: Tensor) -> None:
    """Replace ``tensor`` by its sum over all ranks."""
    _replace(tensor, dist.all_reduce)


def broadcast_(tensor: Tensor) -> None:
    """Replace ``tensor`` by what rank 0 has, where each computed its own: devices need not round alike."""
    _replace(tensor, lambda value: dist.broadcast(value, 0))


def _replace(tensor: Tensor, collective: Callable[[Tensor], object]) -> None:
    if size() > 1:
        value = tensor.contiguous()
        with _together():
            collective(value)
        if value is not tensor:
            tensor.copy_(value)


@contextmanager
def summed_gradients(leaves: Sequence[Tensor]) -> Iterator[None]:
    """What the block adds to the gradients of ``leaves`` is summed over all ranks."""
    if size() == 1:
        yield
        return
    before = [leaf.grad for leaf in leaves]
    for leaf in leaves:
        leaf.grad = None
    yield
    own = [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves]
    for leaf, gradient, earlier in zip(leaves, own, before, strict=True):
        all_reduce_(gradient)
        leaf.grad = gradient if earlier is None else gradient + earlier


def all_gather_json(value: T) -> list[T]:
    """The values of all ranks, in order; what JSON can hold."""
    if size() == 1:
        return [value]
    data = json.dumps(value).encode()
    lengths = torch.zeros(size(), dtype=torch.int64)
    lengths[rank()] = len(data)
    all_reduce_(lengths)
    padded = torch.zeros(int(lengths.max()), dtype=torch.uint8)
    padded[: len(data)] = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    received = [torch.empty_like(padded) for _ in range(size())]
    with _together():
        dist.all_gather(received, padded)
    return [json.loads(bytes(row[:length].numpy())) for row, length in zip(received, lengths.tolist(), strict=True)]


def broadcast_bytes(data: bytes) -> bytes:
    """The bytes that rank 0 gives."""
    if size() == 1:
        return data
    length = torch.tensor([len(data)])
    with _together():
        dist.broadcast(length, 0)
        sent = torch.empty(int(length), dtype=torch.uint8)
        if is_main():
            sent = torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else sent
        if int(length):
            dist.broadcast(sent, 0)
    return bytes(sent.numpy())


class _Shared(torch.autograd.Function):
    """The same on all ranks forwards; the sum of their gradients backwards."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        del ctx
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        del ctx
        summed = gradients[0].contiguous().clone()
        all_reduce_(summed)
        return summed


class _Gathered(torch.autograd.Function):
    """(n,) of each rank -> (size * n,), rank by rank; backwards each rank keeps what is its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.length = len(x)
        received = [torch.empty_like(x) for _ in range(size())]
        with _together():
            dist.all_gather(received, x.contiguous())
        return torch.cat(received)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0][rank() * ctx.length :][: ctx.length]


def sum_gradients(x: Tensor) -> Tensor:
    """``x``, equal on all ranks, whose gradient is to be the sum over what every rank makes of it."""
    return x if size() == 1 else _Shared.apply(x)


def all_gather_shares(x: Tensor, items: int) -> Tensor:
    """All of ``items`` values in order, from each rank's share of them as `mine` deals it; differentiable."""
    if size() == 1:
        return x
    # rank by rank -> item by item: item i is number i // size of rank i % size
    return _Gathered.apply(x).view(size(), -1).T.reshape(-1)[:items]


def _local_rank() -> int:
    return int(os.environ.get("LOCAL_RANK", os.environ.get("RANK", "0")))


@contextmanager
def _together() -> Iterator[None]:
    """Something all ranks do at once. Raises PeerLost when one of them is gone."""
    try:
        yield
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise PeerLost(
            f"process {os.environ.get('RANK')} lost another process of the run ({reason}); "
            "the same command goes on from the last whole chunk"
        ) from error
