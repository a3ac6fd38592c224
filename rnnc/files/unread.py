"""Models of files that have not been called yet: their weights are on the disk, and nothing is compiled.

An unread model is an instance of its class, Model, Network or Decoding, without most of that class's attributes. When
one of them is first asked for, the model reads and compiles, takes the attributes of what came of it, and becomes a
plain instance of the class. From then on it is as quick as any other: nothing stands between a call and machine code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from rnnc.backends.locks import new_lock
from rnnc.compiled import CompileOptions
from rnnc.decoding import Decoder, Decoding
from rnnc.model import Model
from rnnc.network import Network
from rnnc.programs import Program
from rnnc.specs import Spec
from rnnc.torch.network import ArrangedNetwork, TorchNetwork
from rnnc.torch.origin import TorchGraph

if TYPE_CHECKING:
    from rnnc.files.models import Bound, ModelFile
    from rnnc.layered import Layered

__all__ = ["unread"]

READING = new_lock()
"""One thread at a time reads a model. Another one that calls the same model waits, and finds it read."""


def unread(source: ModelFile, options: CompileOptions) -> Bound:
    """The model of a file, which reads it at the first call. Its spec and options are there at once."""
    if isinstance(source.model, Spec):
        return UnreadModel(source, options)
    if isinstance(source.model, Decoder):
        return UnreadDecoding(source, options)
    if isinstance(source.model, TorchGraph):
        arranged = source.model.network_class() is ArrangedNetwork
        return UnreadArrangedNetwork(source, options) if arranged else UnreadTorchNetwork(source, options)
    return UnreadNetwork(source, options)


class Unread:
    """Base of unread models."""

    def __init__(self, source: ModelFile, options: CompileOptions) -> None:
        self._source, self._options = source, options

    def __getattr__(self, name: str) -> Any:
        """An attribute that only a model that has been read has. (Those that are there do not come here.)"""
        if name.startswith("__"):  # what libraries ask of any object; to answer does not need the weights
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        with READING:
            if isinstance(self, Unread):
                self._read()
        return getattr(self, name)

    def _read(self) -> None:
        made = self._made(self._source.params())
        vars(self).update(vars(made))
        self.__class__ = type(made)
        del self._source  # and with it the mapping of the file, of which `made` has copies

    def _made(self, params: dict[str, Any]) -> Any:
        """The model, compiled and bound."""
        raise NotImplementedError


class UnreadModel(Unread, Model):
    """A `rnnc.Model`."""

    def __init__(self, source: ModelFile, options: CompileOptions) -> None:
        super().__init__(source, options)
        self._spec = cast(Spec, source.model)

    @property
    def spec(self) -> Spec:
        return self._spec

    def _made(self, params: dict[str, Any]) -> Model:
        return Program(self._spec, self._options).bind(params)


class UnreadNetwork(Unread, Network):
    """A `rnnc.Network`."""

    def __init__(self, source: ModelFile, options: CompileOptions) -> None:
        super().__init__(source, options)
        self.model = cast("Layered", source.model)
        self._graph = self.model.graph()

    def _made(self, params: dict[str, Any]) -> Network:
        return self.model.compile(params, **self._options.arguments)


class UnreadTorchNetwork(UnreadNetwork, TorchNetwork):
    """A `rnnc.TorchNetwork`."""


class UnreadArrangedNetwork(UnreadNetwork, ArrangedNetwork):
    """A `rnnc.TorchNetwork` whose module has other axes than a network."""


class UnreadDecoding(Unread, Decoding):
    """A `rnnc.Decoding`."""

    def __init__(self, source: ModelFile, options: CompileOptions) -> None:
        super().__init__(source, options)
        self.decoder = cast(Decoder, source.model)

    def _made(self, params: dict[str, Any]) -> Decoding:
        return Decoding(self.decoder, params, **self._options.arguments)
