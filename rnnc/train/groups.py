"""Groups of processes that train together: by torch.distributed, by mpi4py, or the user's own."""

from __future__ import annotations

import atexit
import sys
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from rnnc.checking import checks
from rnnc.extras import load
from rnnc.ir import settings
from rnnc.ir.errors import ArgumentError, ArgumentTypeError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

__all__ = ["Group", "group_of"]


@runtime_checkable
class Group(Protocol):
    """The protocol of processes that train together. An object with these three members is a group.

    rank() and size() are the number of this process, from 0, and how many there are. sum(array) replaces the numbers of
    an array by their sums over all ranks. Arrays are contiguous, of one axis, float32, float64, int64 or uint8. Each
    rank calls it with as many numbers of the same dtype, and gets the same bits. It raises an error, and does not wait,
    if another rank has ended.
    """

    def rank(self) -> int:
        """The number of this process."""

    def size(self) -> int:
        """The number of processes."""

    def sum(self, array: Array) -> None:
        """Sums an array over all processes, in place."""


class Alone:
    """The group of one process."""

    def rank(self) -> int:
        return 0

    def size(self) -> int:
        return 1

    def sum(self, array: Array) -> None:
        """The array is its own sum."""


class TorchGroup:
    """The processes of torch.distributed, over gloo, which sums arrays of the host in place.

    They are those of the default process group. If there is none, that of torchrun's environment is started.
    """

    def __init__(self) -> None:
        self._torch = load("torch", "groups of torch.distributed", "'rnnc[torch]'")
        self._distributed = load("torch.distributed", "groups of torch.distributed", "'rnnc[torch]'")
        distributed = self._distributed
        if not distributed.is_initialized():
            distributed.init_process_group("gloo")
            atexit.register(distributed.destroy_process_group)
        self._group = None if distributed.get_backend() == "gloo" else distributed.new_group(backend="gloo")

    def rank(self) -> int:
        return int(self._distributed.get_rank())

    def size(self) -> int:
        return int(self._distributed.get_world_size())

    def sum(self, array: Array) -> None:
        self._distributed.all_reduce(self._torch.from_numpy(array), group=self._group)


class MpiGroup:
    """The processes of mpi4py's COMM_WORLD."""

    def __init__(self) -> None:
        self._mpi = load("mpi4py.MPI", "groups of mpi4py", "mpi4py")
        self._world = self._mpi.COMM_WORLD

    def rank(self) -> int:
        return int(self._world.Get_rank())

    def size(self) -> int:
        return int(self._world.Get_size())

    def sum(self, array: Array) -> None:
        self._world.Allreduce(self._mpi.IN_PLACE, array)


STARTED_BY_TORCH = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
STARTED_BY_MPI = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_RANK", "MPI_LOCALNRANKS")
"""The environment variables of processes that torchrun starts (all of them), or Open MPI, MPICH or Intel MPI (any)."""


def group_of(distributed: object) -> Group:
    """The group for the argument `distributed` of a training.

    False: this process alone. True: those that it was started with. Otherwise it is a `Group` itself.
    Raises ArgumentError if the process was started alone, and ArgumentTypeError for what is no group.
    """
    if distributed is False:
        return Alone()
    if distributed is True:
        return _started_with()
    if isinstance(distributed, Group) and not isinstance(distributed, type):
        return distributed
    raise ArgumentTypeError(
        "distributed: expected True, False, or an object with the methods rank(), size() and sum(array) "
        f"(rnnc.train.Group), got {checks.came(distributed)}"
    )


def _started_with() -> Group:
    if _torch_is_running() or len(settings.given(STARTED_BY_TORCH)) == len(STARTED_BY_TORCH):
        return TorchGroup()
    if settings.given(STARTED_BY_MPI):
        return MpiGroup()
    raise ArgumentError(
        "distributed: this process was started alone; start the script by 'torchrun --nproc-per-node 2 script.py' or "
        "'mpirun -n 2 python -m mpi4py script.py', call torch.distributed.init_process_group, or pass a group of yours"
    )


def _torch_is_running() -> bool:
    """Whether torch.distributed has a process group. torch is not imported to find out."""
    found: Any = sys.modules.get("torch.distributed")
    return found is not None and found.is_available() and bool(found.is_initialized())
