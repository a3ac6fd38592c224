"""Decoding: a `rnnc.Decoder` compiled, with its parameters."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from rnnc.checking import checks
from rnnc.checking.arguments import explained
from rnnc.checking.networks import MEMORY
from rnnc.checking.parameters import read_parameters
from rnnc.compiled import Compiled, CompileOptions
from rnnc.copies import Unchanging, on_host
from rnnc.decoding import feedback as lowered
from rnnc.decoding.decoder import ENCODER, STEP, Decoder
from rnnc.decoding.pieces import LEAST_MEMORY, Decoded, Pieces, States, memory_of
from rnnc.ir import names
from rnnc.ir.computation import Computation
from rnnc.ir.errors import ArgumentError
from rnnc.layers import recurrent
from rnnc.network import Network

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from rnnc.backends.arrays import Array
    from rnnc.backends.base import Bound

__all__ = ["Decoding"]


class Decoding(Compiled, Unchanging):
    """What `rnnc.Decoder.compile` returns. It copies the parameters; threads may share it. It can be pickled."""

    def __init__(
        self,
        decoder: Decoder,
        params: Mapping[str, Any],
        *,
        backend: str = "llvm",
        threads: int | None = None,
        matmul: str | None = None,
    ) -> None:
        """See `rnnc.Decoder.compile`."""
        self.decoder = decoder
        options = CompileOptions.of(backend, threads, matmul)
        given = read_parameters(decoder, params, options.arrays)
        super().__init__(_computation(decoder, LEAST_MEMORY if decoder.memory else 0), options)
        self._encoder = None
        if decoder.encoder is not None:
            self._encoder = Network(decoder.encoder, _of_part(ENCODER, given), **options.arguments)
        self._params = {name: self._arrays.keep(array) for name, array in _of_part(STEP, given).items()}
        self._bounds = {LEAST_MEMORY if decoder.memory else 0: self._code.bind(self._params)}
        self._starts, self._states = _starts(decoder), States(decoder)

    def __repr__(self) -> str:
        return f"Decoding({self.decoder!r}, backend={self.backend!r})"

    def explain(self) -> str:
        """Which paths the backend took, for the encoder and for the steps."""
        first = "" if self._encoder is None else f"the encoder\n{self._encoder.explain()}the steps\n"
        return first + super().explain()

    def __reduce__(self) -> tuple[Any, ...]:
        parts = {STEP: self._params} | ({} if self._encoder is None else {ENCODER: self._encoder.parameters})
        params = {
            names.in_layer(part, name): array
            for part, own in parts.items()
            for name, array in on_host(own, self._arrays).items()
        }
        return partial(Decoding, **self._options.arguments), (self.decoder, params)

    @explained
    def __call__(
        self, x: Any = None, *, lengths: ArrayLike | None = None, batch: int | None = None, seed: int = 0
    ) -> Decoded:
        """Decodes each row of x, or `batch` rows where there is no encoder.

        x, lengths: as in a call of the encoder (`rnnc.Network.__call__`).
        seed: of `rnnc.Sample`: the same seed gives the same numbers, whatever the number of threads. Others ignore it.
        Raises ShapeError, DtypeError, LengthError, ArgumentError or ArgumentTypeError.
        """
        seed = checks.integer("seed", seed, 0, 2**64 - 1)
        if self._encoder is None:
            if x is not None or lengths is not None:
                raise ArgumentError("x, lengths: the decoder has no encoder that reads them; give batch=")
            return self._decode({}, checks.integer("batch", batch, 0), seed)
        if batch is not None:
            raise ArgumentError("batch: the encoder's x has the rows; leave it out")
        encoded = self._encoder(x, lengths=lengths)
        outputs = encoded if isinstance(encoded, Mapping) else {self._only_output: encoded}
        starts = {state: outputs[name][:, start:stop] for state, (name, start, stop) in self._starts.items()}
        rows = self._rows_of(outputs)
        return self._decode(starts, rows, seed, self._memories(outputs, rows, lengths))

    def _memories(self, outputs: Mapping[str, Array], rows: int, lengths: ArrayLike | None) -> dict[str, Array]:
        """What layers read of the encoder's outputs, by the names of the inputs."""
        turned = 0 if self.decoder.step.batch_first else 1
        found = {}
        for layer, output in self.decoder.memory.items():
            states = outputs[output].swapaxes(0, turned)  # (B, T, M)
            counts = self._arrays.xp.full(rows, states.shape[1]) if lengths is None else lengths
            found[names.in_layer(layer, MEMORY)] = memory_of(states, counts, self._arrays)
        return found

    def _bound_for(self, memories: Mapping[str, Array]) -> Bound:
        """The code for the size of the memories, which is compiled when it is first needed."""
        count = 0
        for layer in self.decoder.memory:
            width = self.decoder.step.entries[layer].layer.memory + 1  # type: ignore[union-attr, operator]
            count = memories[names.in_layer(layer, MEMORY)].shape[1] // width
        if count not in self._bounds:
            code = self._options.compile(_computation(self.decoder, count))
            self._bounds[count] = code.bind(self._params)
        return self._bounds[count]

    @property
    def _only_output(self) -> str:
        (name,) = self._encoder.model.graph().outputs  # type: ignore[union-attr]
        return name

    def _rows_of(self, outputs: Mapping[str, Array]) -> int:
        """The number of rows of the encoder's outputs."""
        graph = self._encoder.model.graph()  # type: ignore[union-attr]
        name, array = next(iter(outputs.items()))
        timed = graph.kinds[graph.outputs[name]].timed
        return int(array.shape[1 if timed and not graph.batch_first else 0])

    def _decode(
        self, starts: Mapping[str, Array], rows: int, seed: int, memories: Mapping[str, Array] | None = None
    ) -> Decoded:
        held = dict(memories or {})
        return Pieces(self.decoder, self._states, self._bound_for(held), self._arrays, starts, held, rows, seed).run()


def _computation(decoder: Decoder, memory: int) -> Computation:
    """The steps. memory: the number of states of the encoder that layers read."""
    feedback = decoder.feedback
    return Computation(lambda steps, lengths: lowered.lower_feedback(feedback, steps, memory))


def _of_part(part: str, given: Mapping[str, Array]) -> dict[str, Array]:
    """The parameters of the encoder or of the step, by their names in it."""
    prefix = names.in_layer(part, "")
    return {name.removeprefix(prefix): array for name, array in given.items() if name.startswith(prefix)}


def _starts(decoder: Decoder) -> dict[str, tuple[str, int, int]]:
    """For each state of the step that starts at an output of the encoder: the output, and the columns."""
    found = {}
    for name, output in decoder.states.items():
        layer, _, state = name.rpartition(".")
        spec, start = recurrent(decoder.step.entries[layer].layer), 0
        assert spec is not None
        for direction in spec.stack().flat:
            stop = start + direction.states[state]
            found[f"{name}{direction.suffix}"] = output, start, stop
            start = stop
    return found
