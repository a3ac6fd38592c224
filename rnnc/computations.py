"""The computations of a model: the network itself, and its derivatives."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from typing import TYPE_CHECKING

from rnnc.array_names import ArrayNames, Names, gradients_of, inputs_of
from rnnc.checking.wrt import EVERY
from rnnc.ir.computation import Computation
from rnnc.specs import Spec

if TYPE_CHECKING:
    from rnnc.ir.graph import Graph
    from rnnc.layered import Layered
    from rnnc.networks.timing import Form


def forward(model: Spec | Layered, form: Form | None = None) -> Computation:
    """The forward pass of a recurrent spec or of a network (`rnnc.Graph`, `rnnc.Sequential`).

    form: of a network; default: that of whole sequences whose frames are full (`rnnc.networks.timing`).
    """
    if isinstance(model, Spec):
        return Computation(partial(_lowered, model), identity=_identity("forward", model))
    from rnnc.networks.lowering import lower_network
    from rnnc.networks.timing import WHOLE

    def build(frames: int, lengths: bool) -> Graph:
        return lower_network(model, frames, lengths=lengths, joined=True, form=form or WHOLE)

    return Computation(build)


def vjp(model: Spec | Layered, wrt: Collection[str] = EVERY) -> Computation:
    """The forward pass, and its pullback as the second half. wrt: the arguments that have gradients."""
    names = names_of(model)
    late = frozenset((*names.adjoints, *gradients_of(names, wrt)))
    build = partial(_reverse, model, inputs_of(names, wrt))
    return Computation(build, late, _identity(f"vjp {sorted(wrt)}", model))


def jvp(model: Spec | Layered) -> Computation:
    """The forward pass, together with its tangent."""
    names = names_of(model)

    def build(steps: int, lengths: bool) -> Graph:
        from rnnc.ir.autodiff import jvp as forward_mode

        return forward_mode(_lowered(model, steps, lengths), inputs_of(names))

    return Computation(build, identity=_identity("jvp", model))


def hvp(model: Spec | Layered) -> Computation:
    """The gradients, together with their tangents: forward mode over reverse mode."""
    names = names_of(model)

    def build(steps: int, lengths: bool) -> Graph:
        from rnnc.ir.autodiff import jvp as forward_mode

        inputs = inputs_of(names)
        gradient = _reverse(model, inputs, steps, lengths)
        gradient.outputs = {k: gradient.outputs[k] for k in gradients_of(names) if k in gradient.outputs}
        read = {n.attr("name") for n in gradient.nodes if n.op == "input"}
        return forward_mode(gradient, [name for name in (*inputs, *names.adjoints) if name in read])

    return Computation(build, identity=_identity("hvp", model))


def _identity(what: str, model: Spec | Layered) -> str:
    """The identity of a computation (`Computation`): of a spec whose equations are rnnc's own, all its arguments."""
    return f"{what} {model!r}" if isinstance(model, Spec) and model.is_ours else ""


def _reverse(model: Spec | Layered, inputs: Collection[str], steps: int, lengths: bool) -> Graph:
    from rnnc.ir.autodiff import vjp as reverse_mode

    return reverse_mode(_lowered(model, steps, lengths), inputs)


def _lowered(model: Spec | Layered, steps: int, lengths: bool) -> Graph:
    if isinstance(model, Spec):
        from rnnc.ir.lower import lower

        return lower(model.stack(), steps, lengths=lengths)
    from rnnc.networks.lowering import lower_network
    from rnnc.networks.timing import Form

    return lower_network(model, steps, lengths=lengths, form=Form(spanned=True))


def names_of(model: Spec | Layered) -> Names:
    """The names in a model's graphs of the arrays of its calls."""
    if isinstance(model, Spec):
        return ArrayNames.of(model)
    from rnnc.networks.names import network_names

    return network_names(model)


DERIVATIVES: dict[str, Callable[..., Computation]] = {"vjp": vjp, "jvp": jvp, "hvp": hvp}
