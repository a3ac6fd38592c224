"""Cells whose values go round the usual paths, for every property that any cell has (`tests.test_odd_cells`).

States that only move, outputs that are views, concats in all places, values that nothing differentiates.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import ClassVar

import rnnc
from rnnc.ir.equations import Value, concat, greater, linear, mean, select, sigmoid, stop_gradient, tanh

Stepped = tuple[Value, dict[str, Value]]
Step = Callable[[Value, SimpleNamespace, SimpleNamespace], Stepped]


@dataclass(frozen=True)
class Odd(rnnc.Cell):
    """A cell made of one function.

    widths, output: of the states and of the output, in multiples of the hidden size, which is even.
    Weights: ih (H, I), tall (2 H, I), beside (H, I + H), narrow (H, H / 2), hh and v (H, H), wide and wide2 (H, 2 H),
    wide3 (H, 3 H).
    """

    name: ClassVar[str] = "odd"
    function: Step
    widths: tuple[tuple[str, int], ...] = (("h", 1),)
    output: float = 1

    def parameters(self, input_size: int, hidden_size: int, bias: bool) -> dict[str, tuple[int, ...]]:
        columns = {"hh": 1, "v": 1, "wide": 2, "wide2": 2, "wide3": 3}
        shapes = {name: (hidden_size, n * hidden_size) for name, n in columns.items()}
        shapes |= {"narrow": (hidden_size, hidden_size // 2), "beside": (hidden_size, input_size + hidden_size)}
        return shapes | {"ih": (hidden_size, input_size), "tall": (2 * hidden_size, input_size)}

    def states(self, hidden_size: int) -> dict[str, int]:
        return {name: n * hidden_size for name, n in self.widths}

    def output_size(self, hidden_size: int) -> int:
        return int(self.output * hidden_size)

    def step(self, x: Value, state: SimpleNamespace, p: SimpleNamespace) -> tuple[Value, Mapping[str, Value]]:
        return self.function(x, state, p)

    def __str__(self) -> str:
        return self.function.__name__


def elman(x: Value, s: SimpleNamespace, p: SimpleNamespace) -> Value:
    return tanh(linear(x, p.ih) + linear(s.h, p.hh))


def one_wide_weight(x: Value, s: SimpleNamespace, p: SimpleNamespace) -> Stepped:
    h = tanh(linear(concat(x, s.h), p.beside))
    return h, {"h": h}


def two_products_of_one_state(x: Value, s: SimpleNamespace, p: SimpleNamespace) -> Stepped:
    h = tanh(linear(x, p.ih) + linear(s.h, p.hh) + linear(s.h, p.v))
    return h, {"h": h}


def halves_exchanged(x: Value, s: SimpleNamespace, p: SimpleNamespace) -> Stepped:
    a, b = elman(x, s, p).split(2)
    h = sigmoid(linear(concat(b, a), p.v))
    return h, {"h": h}


def delay_line(x: Value, s: SimpleNamespace, p: SimpleNamespace) -> Stepped:
    h = tanh(linear(x, p.ih) + linear(s.h, p.hh) + 0.5 * s.c)
    return h, {"h": h, "c": s.h}


def state_that_stays(x: Value, s: SimpleNamespace, p: SimpleNamespace) -> Stepped:
    h = tanh(linear(x, p.ih) + linear(s.h, p.hh) * s.c)
    return h, {"h": h, "c": s.c}


def old_state_out(x: Value, s: SimpleNamespace, p: SimpleNamespace) -> Stepped:
    return s.h, {"h": elman(x, s, p)}


def product_of_old_state_out(x: Value, s: SimpleNamespace, p: SimpleNamespace) -> Stepped:
    return linear(s.h, p.v), {"h": elman(x, s, p)}


def shift_in_time(x: Value, s: SimpleNamespace, p: SimpleNamespace) -> Stepped:
    u = linear(x, p.ih)
    return tanh(u + linear(s.h, p.hh)), {"h": u}


def half_out(x: Value, s: SimpleNamespace, p: SimpleNamespace) -> Stepped:
    h = elman(x, s, p)
    return h.split(2)[1], {"h": h}


def new_and_old_out(x: Value, s: SimpleNamespace, p: SimpleNamespace) -> Stepped:
    h = elman(x, s, p)
    return concat(h, s.h), {"h": h}


def mean_of_an_older_state(x: Value, s: SimpleNamespace, p: SimpleNamespace) -> Stepped:
    h = tanh(linear(x, p.ih) + linear(s.h - mean(s.c), p.hh))
    return h, {"h": h, "c": s.h}


def first_unit_leads(x: Value, s: SimpleNamespace, p: SimpleNamespace) -> Stepped:
    """Every unit reads the old value of one that another part of the step overwrites."""
    units = s.h.shape[-1]
    assert isinstance(units, int)
    h = tanh(linear(x, p.ih) + 0.5 * s.h - 0.7 * s.h.split(units)[0])
    return h, {"h": h}


def mask_across_matmuls(x: Value, s: SimpleNamespace, p: SimpleNamespace) -> Stepped:
    v = linear(x, p.ih) + linear(s.h, p.hh)
    mask = greater(v, mean(v))
    u = linear(select(mask, v, 0.0), p.v)
    h = select(mask, tanh(u), 0.5 * mean(x) * u)
    return h, {"h": h}


def a_row_and_its_first_half(x: Value, s: SimpleNamespace, p: SimpleNamespace) -> Stepped:
    """Two products in one phase whose left operands begin at the same column, and end elsewhere."""
    h = tanh(linear(x, p.ih) + linear(s.h, p.hh)) * tanh(linear(s.h.split(2)[0], p.narrow))
    return h, {"h": h}


def a_first_half_and_its_row(x: Value, s: SimpleNamespace, p: SimpleNamespace) -> Stepped:
    """As above, and the shorter one comes first."""
    h = tanh(linear(s.h.split(2)[0], p.narrow)) * tanh(linear(x, p.ih) + linear(s.h, p.hh))
    return h, {"h": h}


# ------------------------------------------------------------------------------------------ concats


def pair(x: Value, s: SimpleNamespace, p: SimpleNamespace) -> tuple[Value, Value]:
    """Two values in sequence, from a state that is twice as wide."""
    a = tanh(linear(x, p.ih) + linear(s.h, p.wide))
    return a, sigmoid(linear(a, p.hh))


def a_state_of_two_parts(x: Value, s: SimpleNamespace, p: SimpleNamespace) -> Stepped:
    a, b = pair(x, s, p)
    return a, {"h": concat(a, b)}


def a_state_of_two_parts_out(x: Value, s: SimpleNamespace, p: SimpleNamespace) -> Stepped:
    a, b = pair(x, s, p)
    return concat(a, b), {"h": concat(a, b)}


def parts_that_read_old_parts(x: Value, s: SimpleNamespace, p: SimpleNamespace) -> Stepped:
    """The second part reads the first one's old value after its new one is known."""
    old_a, old_b = s.h.split(2)
    a = tanh(linear(x, p.ih) + old_a * old_b)
    b = sigmoid(linear(a, p.hh) + old_a)
    return b, {"h": concat(a, b)}


def a_part_that_reads_the_other_ones_old_value(x: Value, s: SimpleNamespace, p: SimpleNamespace) -> Stepped:
    """As above, but nobody reads the second part of the old state, so that no column is out of place."""
    old, _ = s.h.split(2)
    a = tanh(linear(x, p.ih) + old)
    b = sigmoid(linear(a, p.hh) + old)
    return b, {"h": concat(a, b)}


def a_queue(x: Value, s: SimpleNamespace, p: SimpleNamespace) -> Stepped:
    _, newer = s.h.split(2)
    a = tanh(linear(x, p.ih) + linear(s.h, p.wide))
    return a, {"h": concat(newer, a)}


def one_concat_two_states(x: Value, s: SimpleNamespace, p: SimpleNamespace) -> Stepped:
    a, b = pair(x, s, p)
    return a, {"h": concat(a, b), "c": concat(a, b)}


def read_in_and_after_the_loop(x: Value, s: SimpleNamespace, p: SimpleNamespace) -> Stepped:
    a = elman(x, s, p)
    both = concat(a, sigmoid(linear(a, p.hh)))
    return linear(both, p.wide), {"h": tanh(linear(both, p.wide2))}


def out_and_read_in_the_loop(x: Value, s: SimpleNamespace, p: SimpleNamespace) -> Stepped:
    a = elman(x, s, p)
    both = concat(a, sigmoid(linear(a, p.hh)))
    return both, {"h": tanh(linear(both, p.wide))}


def nested(x: Value, s: SimpleNamespace, p: SimpleNamespace) -> Stepped:
    a = elman(x, s, p)
    three = concat(concat(a, sigmoid(linear(a, p.hh))), s.h)
    return three, {"h": tanh(linear(three, p.wide3))}


def one_inside_two_others(x: Value, s: SimpleNamespace, p: SimpleNamespace) -> Stepped:
    a = elman(x, s, p)
    inner = concat(a, s.h)
    h = tanh(linear(concat(inner, a), p.wide3) + linear(concat(a, inner), p.wide3))
    return h, {"h": h}


def one_inside_two_others_of_the_input(x: Value, s: SimpleNamespace, p: SimpleNamespace) -> Stepped:
    u = linear(x, p.ih)
    inner = concat(u, tanh(u))
    one, other = concat(inner, u), concat(u, inner)
    h = tanh(linear(one, p.wide3) + linear(other, p.wide3) + s.h)
    return concat(one, other), {"h": h}


def twice_the_old_state(x: Value, s: SimpleNamespace, p: SimpleNamespace) -> Stepped:
    both = concat(s.h, s.h)
    return linear(both, p.wide2), {"h": tanh(linear(both, p.wide) + linear(x, p.ih))}


def summed_and_split(x: Value, s: SimpleNamespace, p: SimpleNamespace) -> Stepped:
    both = tanh(concat(elman(x, s, p), s.h))
    a, b = both.split(2)
    return both, {"h": a * b + mean(both)}


def two_states_alike(x: Value, s: SimpleNamespace, p: SimpleNamespace) -> Stepped:
    """Value numbering makes them one value; each still has a last value of its own."""
    return s.c, {"h": tanh(s.c + 1), "c": tanh(1 + s.c)}


def a_state_that_stays_and_one_that_nobody_reads(x: Value, s: SimpleNamespace, p: SimpleNamespace) -> Stepped:
    return tanh(linear(x, p.ih)), {"h": s.h, "c": linear(x, p.ih)}


def an_old_state_out_and_read_after_the_loop(x: Value, s: SimpleNamespace, p: SimpleNamespace) -> Stepped:
    return s.c, {"h": tanh(linear(s.c, p.hh)), "c": tanh(linear(x, p.ih) + s.c)}


def a_product_out_and_split(x: Value, s: SimpleNamespace, p: SimpleNamespace) -> Stepped:
    u = linear(x, p.tall)
    return u, {"h": tanh(u.split(2)[1] + s.h)}


def a_product_of_one_unit_in_a_wide_sum(x: Value, s: SimpleNamespace, p: SimpleNamespace) -> Stepped:
    h = tanh(linear(x, p.ih) + linear(s.h, p.hh.split(p.hh.shape[0])[0]))
    return h, {"h": h}


# ------------------------------------------------------------------------------------------ what is differentiated


def written_never_read(x: Value, s: SimpleNamespace, p: SimpleNamespace) -> Stepped:
    h = elman(x, s, p)
    return h, {"h": h, "c": 2 * h}


def never_changed(x: Value, s: SimpleNamespace, p: SimpleNamespace) -> Stepped:
    h = elman(x, s, p) * s.c
    return h, {"h": h, "c": s.c}


def never_used(x: Value, s: SimpleNamespace, p: SimpleNamespace) -> Stepped:
    """No gradient to the weights hh and to the state h."""
    new = tanh(linear(x, p.ih) + s.c)
    return new, {"h": new, "c": new}


def output_beside_the_loop(x: Value, s: SimpleNamespace, p: SimpleNamespace) -> Stepped:
    """The adjoint of the output meets values of the loop that no recurrence of adjoints reads."""
    u = linear(x, p.ih)
    c = sigmoid(u) * s.c + (1 - sigmoid(u)) * u
    r = sigmoid(u + linear(s.h, p.hh))
    return r * c + (1 - r) * u, {"h": c, "c": c}


def cut_in_time(x: Value, s: SimpleNamespace, p: SimpleNamespace) -> Stepped:
    """Truncated after one step: what crosses steps is held constant."""
    h = tanh(linear(x, p.ih) + linear(stop_gradient(s.h), p.hh))
    return h, {"h": h, "c": h * stop_gradient(s.c)}


def all_held(x: Value, s: SimpleNamespace, p: SimpleNamespace) -> Stepped:
    h = stop_gradient(elman(x, s, p))
    return h, {"h": h, "c": h}


TWO = (("h", 1), ("c", 1))
TALL = (("h", 2),)

ODD = (
    Odd(mask_across_matmuls),
    Odd(one_wide_weight),
    Odd(two_products_of_one_state),
    Odd(halves_exchanged),
    Odd(delay_line, TWO),
    Odd(state_that_stays, TWO),
    Odd(old_state_out),
    Odd(product_of_old_state_out),
    Odd(shift_in_time),
    Odd(half_out, output=0.5),
    Odd(new_and_old_out, output=2),
    Odd(mean_of_an_older_state, TWO),
    Odd(first_unit_leads),
    Odd(a_row_and_its_first_half),
    Odd(a_first_half_and_its_row),
    Odd(a_state_of_two_parts, TALL),
    Odd(a_state_of_two_parts_out, TALL, output=2),
    Odd(parts_that_read_old_parts, TALL),
    Odd(a_part_that_reads_the_other_ones_old_value, TALL),
    Odd(a_queue, TALL),
    Odd(one_concat_two_states, (("h", 2), ("c", 2))),
    Odd(read_in_and_after_the_loop),
    Odd(out_and_read_in_the_loop, output=2),
    Odd(nested, output=3),
    Odd(one_inside_two_others),
    Odd(one_inside_two_others_of_the_input, output=6),
    Odd(twice_the_old_state),
    Odd(summed_and_split, output=2),
    Odd(a_product_of_one_unit_in_a_wide_sum),
    Odd(two_states_alike, TWO),
    Odd(a_state_that_stays_and_one_that_nobody_reads, TWO),
    Odd(an_old_state_out_and_read_after_the_loop, TWO),
    Odd(a_product_out_and_split, output=2),
    Odd(written_never_read, TWO),
    Odd(never_changed, TWO),
    Odd(never_used, TWO),
    Odd(output_beside_the_loop, TWO),
)
HELD = (Odd(cut_in_time, TWO), Odd(all_held, TWO))
"""Cells that hold values constant: their gradients are not slopes."""
