"""A deterministic covering selection: few cases, yet every combination of `strength` option values is in one.

Bugs of a compiler come from two options meeting (reverse and lengths, odd sizes and float64), rarely from five.
All pairs of a product of a hundred thousand cases fit in a few dozen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations, product
from typing import Any

Options = Mapping[str, Sequence[Any]]
Choice = dict[str, Any]
Combination = tuple[tuple[str, Any], ...]
"""What is to be covered: (name, value) pairs, in the order of the options."""


def covering(
    options: Options, strength: int = 2, valid: Callable[[Choice], bool] = lambda choice: True
) -> list[Choice]:
    """Cases that together hold every valid combination of values of any `strength` options.

    `valid` sees partial choices too, and answers False once a choice can no longer be allowed. Greedy: each
    case starts from the first combination still missing and takes, option by option, the value that covers the
    most of what is missing.
    """
    missing = {c: None for c in _all_combinations(options, strength) if valid(dict(c))}
    cases: list[Choice] = []
    while missing:
        case = dict(next(iter(missing)))
        for name, values in options.items():
            if name not in case:
                allowed = [value for value in values if valid({**case, name: value})]
                if not allowed:
                    raise ValueError(f"no value of {name!r} is valid beside {case}: order or split the options")
                case[name] = _best(case, name, _rotated(allowed, len(missing)), missing, strength, options)
        cases.append({name: case[name] for name in options})
        for combination in combinations(cases[-1].items(), strength):
            missing.pop(combination, None)
    return cases


def _all_combinations(options: Options, strength: int) -> Iterable[Combination]:
    for names in combinations(options, strength):
        for values in product(*(options[name] for name in names)):
            yield tuple(zip(names, values, strict=True))


def _rotated(values: list[Any], turn: int) -> list[Any]:
    """Ties go to another value each time, so that what is not counted is spread as well."""
    start = turn % len(values)
    return values[start:] + values[:start]


def _best(
    case: Choice,
    name: str,
    values: Sequence[Any],
    missing: Mapping[Combination, None],
    strength: int,
    options: Options,
) -> Any:
    def gain(value: Any) -> int:
        taken = {**case, name: value}
        others = [key for key in options if key in case]
        chosen = (set(rest) | {name} for rest in combinations(others, strength - 1))
        return sum(tuple((k, taken[k]) for k in options if k in keys) in missing for keys in chosen)

    return max(values, key=gain)
