"""`Trained`: the result of `fit`."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rnnc.train.record import Epoch

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rnnc.layered import Layered
    from rnnc.network import Network

    Array = NDArray[Any]
    Path = str | os.PathLike[str]


@dataclass(frozen=True)
class Trained:
    """The result of `fit`.

    model: the network. params: its parameters, name -> array in the network's dtype; with `patience`, those of the
    best epoch. history: one `Epoch` per epoch. updates: the number of updates made. backend: the one it was trained on.
    ended: why it ended: "epochs", if all were done; "patience"; "stopped" by a callback; "data" for a stream that was
        over; or "interrupted" by a KeyboardInterrupt (Ctrl-C).
    """

    model: Layered
    params: dict[str, Array]
    history: tuple[Epoch, ...]
    updates: int
    backend: str = field(repr=False, default="llvm")
    ended: str = "epochs"

    @property
    def interrupted(self) -> bool:
        """Whether a KeyboardInterrupt ended the training. The parameters are those after the last whole update."""
        return self.ended == "interrupted"

    def compile(self, *, backend: str | None = None, threads: int | None = None, matmul: str | None = None) -> Network:
        """The trained network, compiled for inference.

        backend: by default the one of the training. threads, matmul: as in `rnnc.compile`, with its defaults: without
        `matmul`, products are exact to the dtype even if the training's were not.
        Raises what `Sequential.compile` raises.
        """
        backend = self.backend if backend is None else backend
        return self.model.compile(self.params, backend=backend, threads=threads, matmul=matmul)

    def save(self, path: Path) -> None:
        """Writes network and parameters to one file, of which `rnnc.load` makes a `rnnc.Network`.

        It is a safetensors file: `rnnc.train.load_parameters` and other programs read the parameters in it.
        Raises what `rnnc.save` raises. (Parameters of a network with a cell that has no name go to a file by
        `rnnc.train.save_parameters`.)
        """
        from rnnc.files.models import save

        save(path, self.model, self.params)
