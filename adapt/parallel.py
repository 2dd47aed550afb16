"""One run on several processes (DistributedDataParallel under torchrun), equal to one process.

Every process draws the same batches from the same generators and computes its share of each. Batch norm
takes its statistics over the whole batch, and dropout (`adapt.dropout`) its share of one mask: the numbers
are those of one process but for the order in which floats are added. Only the first process writes.
"""

from __future__ import annotations

import contextlib
import gc
import io
import logging
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from store.errors import ConfigError, Ma2lError, RunError, counted

log = logging.getLogger(__name__)


def rank() -> int:
    """Return this process's number, 0 where there is only one."""
    return dist.get_rank() if _together() else 0


def world() -> int:
    """Return how many processes train together."""
    return dist.get_world_size() if _together() else 1


def _together() -> bool:
    return dist.is_available() and dist.is_initialized()


@contextlib.contextmanager
def group(environment: Mapping[str, str], device: torch.device) -> Iterator[None]:
    """Join the processes that torchrun started; a process that was started alone joins nothing.

    Raises:
        ConfigError: torchrun's variables are not all there.
    """
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if environment.get("WORLD_SIZE", "1") == "1":
        yield
        return
    lacking = [n for n in ("RANK", "MASTER_ADDR", "MASTER_PORT") if n not in environment]
    if lacking:
        raise ConfigError(
            f"WORLD_SIZE is {environment['WORLD_SIZE']} but {', '.join(lacking)} is not set. Start "
            "several processes with torchrun, or unset WORLD_SIZE."
        )
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend)
    log.info("Process %d of %d.", rank(), world())
    failed = True
    try:
        yield
        failed = False
    except BaseException as error:
        traceback.clear_frames(error.__traceback__)
        if _is_of_others(error):
            what = str(error).splitlines()[0].split(". ")[0]
            raise RunError(
                "Another process of this training ended or cannot be reached; its own message says why "
                f"(here: {what}). What was kept of the run is still there, and --resume goes on with it."
            ) from error
        raise
    finally:
        # A DistributedDataParallel that is still alive keeps the group's threads, and they abort the
        # process at its end.
        gc.collect()
        if not failed or backend == "gloo":  # after a failure NCCL would wait for the others
            dist.destroy_process_group()


def _is_of_others(error: BaseException) -> bool:
    """Return whether an error is that of a process that waited for another one."""
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and "gloo/transport" in str(error)
    )


def from_first(function: Callable[[], Any]) -> Any:
    """Call a function in the first process alone, and return its result in all of them.

    The result may hold tensors, numbers and names.

    Raises:
        Ma2lError: the function raised it; the other processes raise a RunError with the same text.
    """
    if world() == 1:
        return function()
    failure: Exception | None = None
    told: dict[str, Any] = {}
    if rank() == 0:
        try:
            told = {"value": function()}
        except (Ma2lError, OSError) as error:
            failure, told = error, {"error": str(error)}
    told = _sent_by_first(told)
    if failure is not None:
        raise failure
    if "error" in told:
        raise RunError(f"The first process stopped: {told['error']}")
    return told["value"]


def _sent_by_first(value: dict[str, Any]) -> dict[str, Any]:
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    buffer = io.BytesIO()
    if rank() == 0:
        torch.save(value, buffer)
    size = torch.tensor([buffer.getbuffer().nbytes], device=device)
    dist.broadcast(size, 0)
    if rank() == 0:
        dist.broadcast(torch.frombuffer(buffer.getbuffer(), dtype=torch.uint8).to(device), 0)
        return value
    content = torch.empty(int(size), dtype=torch.uint8, device=device)
    dist.broadcast(content, 0)
    received: dict[str, Any] = torch.load(
        io.BytesIO(content.cpu().numpy().tobytes()), map_location="cpu", weights_only=True
    )
    return received


def differing(values: Mapping[str, str], device: torch.device) -> list[str]:
    """Return the names of the values that are not those of the first process in some process.

    Args:
        values: the same names in every process.
        device: of this process, for what is sent.
    """
    first = from_first(lambda: dict(values))
    same = torch.tensor([first[name] == value for name, value in values.items()], device=device)
    return [name for name, all_same in zip(values, smallest(same.byte()).tolist()) if not all_same]


def check_divisible(count: int) -> None:
    """Refuse a batch that the processes cannot share equally.

    Raises:
        ConfigError: `count` videos are no multiple of the number of processes.
    """
    if count % world():
        raise ConfigError(
            f"{counted(world(), 'process')} cannot share a batch of {counted(count, 'video')} "
            "equally. Choose --batch-size "
            f"(with --target-batch equal) so that it is a multiple of {world()}."
        )


def share(rows: slice) -> slice:
    """Return this process's part of a batch's rows.

    Raises:
        ConfigError: the processes cannot share them equally.
    """
    check_divisible(rows.stop - rows.start)
    own = (rows.stop - rows.start) // world()
    return slice(rows.start + rank() * own, rows.start + (rank() + 1) * own)


def wrapped(module: nn.Module) -> nn.Module:
    """Return the module, with gradients that are averaged over the processes if there are several."""
    if world() == 1:
        return module
    return DistributedDataParallel(module, gradient_as_bucket_view=True)


def averaged(x: Tensor) -> Tensor:
    """Average a value over the processes; its gradient is averaged likewise."""
    return x if world() == 1 else _Sum.apply(x) / world()


def gathered(x: Tensor) -> Tensor:
    """Join the rows of all processes in the batch's order: (rows, ...) of each -> (world() rows, ...).

    For losses that compare every pair of a batch. A loss of the joined rows is computed by every process
    alike, and `wrapped` averages its gradients to those that one process would have.
    """
    return x if world() == 1 else _Gathered.apply(x)


def smallest(x: Tensor) -> Tensor:
    """Return the least value over the processes, without a gradient."""
    if world() > 1:
        x = x.clone()
        dist.all_reduce(x, dist.ReduceOp.MIN)
    return x


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        return _summed(x)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        return _summed(gradient)


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(world())]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        return _summed(gradient).chunk(world())[rank()]


def _summed(x: Tensor) -> Tensor:
    x = x.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(x)
    return x


class BatchNorm(nn.BatchNorm1d):
    """`nn.BatchNorm1d` over the rows of all processes, of which each has (rows, C)."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise; in training by the statistics of all processes' rows.

        Raises:
            ConfigError: in training, they are a single row, which has no variance.
        """
        if self.training and len(x) * world() == 1:
            raise ConfigError(
                "A step has a single frame of one domain, which gives batch norm a single value. Raise "
                "--batch-size or --frames, or use --target-batch equal."
            )
        if not self.training or world() == 1:
            return super().forward(x)
        exact = x.to(torch.promote_types(x.dtype, torch.float32))
        mean_C = averaged(exact.mean(dim=0))
        variance_C = averaged((exact - mean_C).square().mean(dim=0))
        rows = len(x) * world()
        with torch.no_grad():
            assert self.running_mean is not None and self.running_var is not None
            assert self.num_batches_tracked is not None and self.momentum is not None
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean_C, self.momentum)
            self.running_var.lerp_(variance_C * (rows / (rows - 1)), self.momentum)
        normal = (exact - mean_C) * (variance_C + self.eps).rsqrt()
        return (normal * self.weight + self.bias).to(x.dtype)
