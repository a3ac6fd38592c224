"""Decoding: a `rnnc.Decoder` compiled, with its parameters."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from rnnc.checking import checks
from rnnc.checking.arguments import explained
from rnnc.checking.decoders import check_last
from rnnc.checking.network_calls import NetworkSignature
from rnnc.checking.networks import MEMORY
from rnnc.checking.parameters import read_parameters
from rnnc.compiled import Compiled, CompileOptions
from rnnc.copies import Unchanging, on_host
from rnnc.decoding import feedback as lowered
from rnnc.decoding.decoder import ENCODER, STEP, Decoder
from rnnc.decoding.pieces import LEAST_MEMORY, Decoded, Pieces, Start, States, memory_of, memory_size
from rnnc.ir import names
from rnnc.ir.computation import Computation
from rnnc.ir.errors import ArgumentError
from rnnc.layers import recurrent
from rnnc.network import Network

if TYPE_CHECKING:
    from os import PathLike

    from numpy.typing import ArrayLike

    from rnnc.backends.arrays import Array
    from rnnc.backends.base import Bound

__all__ = ["Decoding", "steps_of"]


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
        weights: str | None = None,
        activations: str | None = None,
    ) -> None:
        """See `rnnc.Decoder.compile`."""
        self.decoder = decoder
        options = CompileOptions.of(backend, threads, matmul, weights, activations)
        given = read_parameters(decoder, params, options.arrays)
        super().__init__(steps_of(decoder), options)
        self._encoder = None
        if decoder.encoder is not None:
            self._encoder = Network(decoder.encoder, _of_part(ENCODER, given), **options.arguments)
        self._params = {name: self._arrays.keep(array) for name, array in _of_part(STEP, given).items()}
        self._bounds = {_least(decoder): self._code.bind(self._params)}
        self._starts, self._states = _starts(decoder), States(decoder)

    def __repr__(self) -> str:
        return f"Decoding({self.decoder!r}, backend={self.backend!r})"

    def explain(self) -> str:
        """Which paths the backend took, for the encoder and for the steps."""
        first = "" if self._encoder is None else f"the encoder\n{self._encoder.explain()}the steps\n"
        return first + super().explain() + self._explained_weights(self._params)

    def save(self, path: str | PathLike[str]) -> None:
        """Writes decoder and parameters to one file, of which `rnnc.load` makes it again. Raises as `rnnc.save`."""
        from rnnc.files.models import save

        save(path, self.decoder, self._on_host())

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(Decoding, **self._options.arguments), (self.decoder, self._on_host())

    def _on_host(self) -> dict[str, Any]:
        """The parameters of both networks, by the decoder's names, as NumPy arrays."""
        parts = {STEP: self._params} | ({} if self._encoder is None else {ENCODER: self._encoder.parameters})
        return {
            names.in_layer(part, name): array
            for part, own in parts.items()
            for name, array in on_host(own, self._arrays).items()
        }

    @explained
    def __call__(
        self,
        x: Any = None,
        *,
        lengths: ArrayLike | None = None,
        batch: int | None = None,
        last: Any = None,
        state: Mapping[str, Array] | None = None,
        seed: int = 0,
    ) -> Decoded:
        """Decodes each row of x; without an encoder, `batch` rows, or those of `last`.

        x, lengths: as in a call of the encoder (`rnnc.Network.__call__`).
        last, state: only without an encoder, to go on from a prompt: (B,) integers that the first step reads instead of
            `start`, and the state that `rnnc.Network.advance` of the step's network returned for what comes before.
        seed: of `rnnc.Sample`: it alone decides the random numbers, whatever the number of threads. Others ignore it.
        Raises ShapeError, DtypeError, LengthError, ArgumentError or ArgumentTypeError.
        """
        seed = checks.integer("seed", seed, 0, 2**64 - 1)
        if self._encoder is None:
            if x is not None or lengths is not None:
                raise ArgumentError("x, lengths: the decoder has no encoder that reads them; give batch= or last=")
            start = self._prompted(batch, last, state)
        elif batch is not None or last is not None or state is not None:
            raise ArgumentError("batch, last, state: the encoder's x has the rows, and says what they start from")
        else:
            start = self._encoded(self._encoder, x, lengths)
        bound = self._bound_for(start.memory)
        return Pieces(self.decoder, self._states, bound, self._arrays, start, seed).run()

    # ---- what rows start from

    def _prompted(self, batch: object, last: object, state: object) -> Start:
        """Without an encoder: from a prompt, or from `Decoder.start` and zeros."""
        if last is None:
            rows = checks.integer("batch", batch, 0)
            numbers = self._arrays.xp.full(rows, self.decoder.start)
        else:
            numbers = check_last(last, self.decoder.rows, self._arrays)
            rows = len(numbers)
            if batch is not None and checks.integer("batch", batch, 0) != rows:
                raise ArgumentError(f"batch: last has {rows} rows, got {batch}")
        states = NetworkSignature(self.decoder.step, self._arrays).state("state", state, rows)
        return Start(numbers, {} if states is None else states)

    def _encoded(self, encoder: Network, x: Any, lengths: ArrayLike | None) -> Start:
        """From the outputs of the encoder."""
        graph = encoder.model.graph()
        found = encoder(x, lengths=lengths)
        outputs = found if isinstance(found, Mapping) else dict.fromkeys(graph.outputs, found)
        if graph.batch_first:  # steps first
            outputs = {name: y.swapaxes(0, 1) if y.ndim == 3 else y for name, y in outputs.items()}
        rows = next(iter(outputs.values())).shape[-2]
        states = {state: outputs[name][:, a:b] for state, (name, a, b) in self._starts.items()}
        memories = {layer: outputs[name] for layer, name in self.decoder.memory.items()}
        size = max((memory_size(len(memory)) for memory in memories.values()), default=0)
        held = {
            names.in_layer(layer, MEMORY): memory_of(memory, lengths, size, self._arrays)
            for layer, memory in memories.items()
        }
        return Start(self._arrays.xp.full(rows, self.decoder.start), states, held, size)

    def _bound_for(self, memory: int) -> Bound:
        """The code for a number of states of the encoder, which is compiled when it is first needed."""
        if memory not in self._bounds:
            code = self._options.compile(steps_of(self.decoder, memory))
            self._bounds[memory] = code.bind(self._params)
        return self._bounds[memory]


def steps_of(decoder: Decoder, memory: int | None = None) -> Computation:
    """The steps. memory: the number of states of the encoder that layers read; default: the least there is code for."""
    feedback = decoder.feedback
    memory = _least(decoder) if memory is None else memory
    return Computation(lambda steps, lengths: lowered.lower_feedback(feedback, steps, memory))


def _least(decoder: Decoder) -> int:
    """The number of states of the encoder for which there is code from the start."""
    return LEAST_MEMORY if decoder.memory else 0


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
