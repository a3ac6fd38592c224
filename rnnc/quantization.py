"""What narrow weights cost: the error of each weight, of each product on a sample, and of the results."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from rnnc.checking import checks
from rnnc.checking.arguments import explained
from rnnc.copies import on_host
from rnnc.ir.errors import ArgumentError, ArgumentTypeError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from rnnc.backends.arrays import Array
    from rnnc.backends.products import ProductFormat
    from rnnc.backends.reference.interpreter import Multiplied
    from rnnc.backends.tables import NarrowTable
    from rnnc.ir.computation import Computation
    from rnnc.ir.families import Family
    from rnnc.model import Model
    from rnnc.network import Network

__all__ = ["Error", "QuantizationReport", "WeightError", "quantization_report", "weight_errors"]


@dataclass(frozen=True)
class WeightError:
    """The error of the matrices that come from a parameter (or from several).

    largest, rms: of single weights, in their units. output_largest, output_rms: of the sums that an output is made of,
    in units of the output: at most, for inputs in -1 .. 1; and the root mean square, for inputs whose own is 1. Both
    are those of the worst output.
    """

    name: str
    largest: float
    rms: float
    output_largest: float
    output_rms: float


@dataclass(frozen=True)
class Error:
    """The error of values on a sample: the largest, the root mean square, and that of the values without rounding."""

    name: str
    largest: float
    rms: float
    size: float

    @property
    def relative(self) -> float:
        """The error's root mean square as a share of the values'; 0 for values that are all 0 and right."""
        return self.rms / self.size if self.size else float(self.rms > 0)

    @staticmethod
    def of(name: str, exact: Iterable[Array], found: Iterable[Array]) -> Error:
        """The error of arrays. They may be empty."""
        one = np.concatenate([np.ravel(array).astype(np.float64) for array in exact])
        other = np.concatenate([np.ravel(array).astype(np.float64) for array in found])
        difference = np.abs(one - other)
        return Error(name, float(difference.max(initial=0)), _rms(difference), _rms(one))


@dataclass(frozen=True)
class QuantizationReport:
    """What `rnnc.quantization_report` returns; its `str` is a table.

    format: of the products. weights: the errors of weights. products: those of the products with these weights, for
    the sample, which have the errors of all layers before. Tables of embeddings come first in both, as "rows of NAME".
    outputs: those of the results.
    """

    format: str
    weights: tuple[WeightError, ...]
    products: tuple[Error, ...]
    outputs: tuple[Error, ...]

    def __str__(self) -> str:
        names = [each.name for each in self.weights] + [each.name for each in self.outputs]
        width = max(map(len, names)) + 2
        lines = [f"{self.format}, against float32"]
        lines += [f"{'':<{width}}{'weights':<22}products, on the sample"]
        lines += [f"{'':<{width}}{'largest':<11}{'RMS':<11}{'largest':<11}{'RMS':<11}RMS / RMS"]
        products = {each.name: each for each in self.products}
        for weight in self.weights:
            cells = _cells(products[weight.name])
            lines.append(f"{weight.name:<{width}}{weight.largest:<11.3g}{weight.rms:<11.3g}{cells}")
        lines += ["results"]
        lines += [f"{each.name:<{width}}{'':<22}{_cells(each)}" for each in self.outputs]
        return "\n".join(line.rstrip() for line in lines)


def _cells(error: Error) -> str:
    return f"{error.largest:<11.3g}{error.rms:<11.3g}{error.relative:.2%}"


@explained
def quantization_report(model: Model | Network, sample: Any, *, lengths: ArrayLike | None = None) -> QuantizationReport:
    """What the narrow weights of a model cost: per layer, the error of weights, and of its products on a sample.

    model: a `rnnc.Model` or `rnnc.Network` that was compiled with `weights`. sample, lengths: what it is called with;
    a few hundred steps of real data tell more than many of noise. They are run twice by the reference backend, which
    rounds as machine code does, so this is slow.
    Raises ArgumentError for a model without narrow weights, ArgumentTypeError for another object, and what a call
    raises.
    """
    from rnnc.backends.reference.interpreter import seen_products

    options = _options(model)
    results, products = [], []
    for formats in ({}, {"weights": options.weights, "activations": options.activations}):
        again = _on_reference(model, formats)
        with seen_products() as seen:
            results.append(_named(again(sample, lengths=lengths)))
        products.append(seen)
    exact, found = results
    tables, looked_up = _looked_up(model, sample, lengths)
    errors = [*tables, *weight_errors(model._computation, model._params, options.product)]
    outputs = [Error.of(name, [exact[name]], [found[name]]) for name in exact]
    return QuantizationReport(str(options.product), tuple(errors), (*looked_up, *_products(*products)), tuple(outputs))


def _looked_up(model: Model | Network, sample: Any, lengths: ArrayLike | None) -> tuple[list[WeightError], list[Error]]:
    """The errors of tables, and of the rows that a sample looks up."""
    tables = model._narrow_tables()
    if not tables:
        return [], []
    network = cast("Network", model)  # a model has no tables
    numbers = network._numbers(sample, lengths)
    pairs = ((name, model._params[name][numbers[name]], table[numbers[name]]) for name, table in tables.items())
    rows = [Error.of(_rows_of(name), [exact], [found]) for name, exact, found in pairs]
    return table_errors(tables, model._params), rows


def _rows_of(name: str) -> str:
    """The name of a table among parameters that may be multiplied by, too."""
    return f"rows of {name}"


def _options(model: object) -> Any:
    """The options of a model with narrow weights."""
    from rnnc.model import Model
    from rnnc.network import Network

    if not isinstance(model, Model | Network):
        raise ArgumentTypeError(f"model: expected a rnnc.Model or rnnc.Network, got {checks.came(model)}")
    if model._options.weights is None:
        raise ArgumentError('model: its weights are not narrow; compile it with weights="int8" or "bfloat16"')
    return model._options


def _on_reference(model: Model | Network, formats: Mapping[str, Any]) -> Any:
    """The same model on the reference backend."""
    from rnnc.model import Model
    from rnnc.programs import compile

    params = on_host(model._params, model._arrays)
    if isinstance(model, Model):
        return compile(model.spec, params, backend="reference", **formats)
    return model.model.compile(params, backend="reference", **formats)


def _named(result: Any) -> dict[str, Array]:
    """The results of a call, by name."""
    if isinstance(result, Mapping):
        return dict(result)
    if not isinstance(result, tuple):
        return {"output": result}
    output, state = result
    states = state if isinstance(state, tuple) else (state,)
    return {"output": output} | {f"state {n}": array for n, array in enumerate(states)}


def _products(exact: list[Multiplied], found: list[Multiplied]) -> Iterator[Error]:
    """The errors of the products with each parameter. Both runs compute them in the same order."""
    pairs: dict[str, list[tuple[Array, Array]]] = {}
    for one, other in zip(exact, found, strict=True):
        pairs.setdefault(_name(one.weights), []).append((one.result, other.result))
    for name, results in pairs.items():
        yield Error.of(name, *zip(*results, strict=True))


def _name(weights: Family) -> str:
    """The parameters that a matrix is made of."""
    from rnnc.ir.families import operands_first

    return " + ".join(dict.fromkeys(str(f.name) for f in operands_first([weights]) if f.op == "input"))


def weight_errors(computation: Computation, params: Mapping[str, Array], form: ProductFormat) -> list[WeightError]:
    """The errors of all matrices that a computation multiplies by, in the order of the computation."""
    from rnnc.backends.products import rounded
    from rnnc.backends.reference.interpreter import evaluate_bind
    from rnnc.ir.computation import members

    program = computation.program()
    values = evaluate_bind(program, params)
    found: dict[str, dict[tuple[Family, bool], Array]] = {}
    for family in (family for statement in program.statements for family in members(statement)):
        if family.op == "matmul" and (right := family.inputs[1]) in values:
            turned = bool(family.attr("transpose_b"))
            matrix = values[right].T if turned else values[right]
            difference = rounded(matrix, form).widened().astype(np.float64) - matrix
            found.setdefault(_name(right), {})[right, turned] = difference
    return [_weight_error(name, list(matrices.values())) for name, matrices in found.items()]


def table_errors(tables: Mapping[str, NarrowTable], params: Mapping[str, Array]) -> list[WeightError]:
    """The errors of tables. A row that is looked up is an output, which has its own error and no sum."""
    found = []
    for name, table in tables.items():
        difference = table.widened().astype(np.float64) - params[name]
        largest, worst = float(np.abs(difference).max()), float(np.sqrt(np.square(difference).mean(axis=1)).max())
        found.append(WeightError(_rows_of(name), largest, _rms(difference), largest, worst))
    return found


def _weight_error(name: str, differences: list[Array]) -> WeightError:
    every = np.concatenate([np.ravel(each) for each in differences])
    most = max(float(np.abs(each).sum(axis=0).max()) for each in differences)
    typical = max(float(np.sqrt(np.square(each).sum(axis=0)).max()) for each in differences)
    return WeightError(name, float(np.abs(every).max()), _rms(every), most, typical)


def _rms(values: Array) -> float:
    return float(np.sqrt(np.mean(np.square(values)))) if values.size else 0.0


def explained_weights(
    computation: Computation, params: Mapping[str, Array], form: ProductFormat, tables: Mapping[str, NarrowTable]
) -> str:
    """What `explain` says of narrow weights: the error of each, and that it makes in sums."""
    rows = (f"{each.name}: {_rounded_by(each)}\n" for each in table_errors(tables, params))
    weights = (f"weights {each.name}: {_told(each)}\n" for each in weight_errors(computation, params, form))
    return "".join([*rows, *weights])


def _rounded_by(error: WeightError) -> str:
    if not error.largest:
        return "kept exactly"
    return f"rounded by {error.largest:.2g} at most, RMS {error.rms:.2g}"


def _told(error: WeightError) -> str:
    if not error.largest:
        return _rounded_by(error)
    return (
        f"{_rounded_by(error)}; moves an output by {error.output_largest:.2g} "
        f"at most for inputs in -1 .. 1, RMS {error.output_rms:.2g} for inputs of RMS 1"
    )
