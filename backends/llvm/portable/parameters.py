"""Parameters in memory: functions with more parameters than a machine allows take the address of a table of them.

    define void @f(i64 %a, ptr %b)   ->   define void @f(ptr %table) { %a = load i64, ptr %table  %b = load ptr, ... }

Engines of WebAssembly refuse modules with a function of more than 1,000 parameters (WebAssembly JavaScript Interface,
implementation-defined limits). A phase that reads hundreds of values has as many.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

MOST = 1000

_HEAD = re.compile(r"define (\S+) @([\w.$-]+)\((.*)\) (.*) \{\nentry:\n")


def in_tables(bodies: Mapping[str, str]) -> dict[str, str]:
    """The texts of functions, by name, with at most `MOST` parameters each. All must be integers or pointers."""
    counts = {name: len(_listed(head[3])) for name, body in bodies.items() if (head := _HEAD.match(body))}
    many = {name: count for name, count in counts.items() if count > MOST}
    if not many:
        return dict(bodies)
    found = {}
    for name, body in bodies.items():
        found[name] = _calling(_taking(body) if name in many else body, many)
    return found


def _listed(text: str) -> list[str]:
    return text.split(", ") if text else []


def _taking(body: str) -> str:
    """A function that loads its parameters from a table of 8 bytes each."""
    head = _HEAD.match(body)
    assert head is not None
    loads = []
    for number, parameter in enumerate(_listed(head[3])):
        type_, *_, name = parameter.split(" ")
        loads += [
            _place(f"%given.{number}", "%given.table", number),
            f"  {name} = load {type_}, ptr %given.{number}, align 8\n",
        ]
    return f"define {head[1]} @{head[2]}(ptr %given.table) {head[4]} {{\nentry:\n{''.join(loads)}{body[head.end() :]}"


def _calling(body: str, many: Mapping[str, int]) -> str:
    """A function that calls those with tables."""
    called = [name for name in many if f"@{name}(" in body.partition("entry:\n")[2]]
    if not called:
        return body
    size, number = max(many[name] for name in called), 0

    def stored(call: re.Match[str]) -> str:
        nonlocal number
        lines = []
        for slot, argument in enumerate(_listed(call[2])):
            place = f"%sent.{number}"
            number += 1
            lines += [_place(place, "%sent.table", slot), f"  store {argument}, ptr {place}, align 8\n"]
        return f"{''.join(lines)}{call[1]}ptr %sent.table)"

    for name in called:
        body = re.sub(rf"^( *(?:%\S+ = )?call \S+ @{re.escape(name)}\()(.*)\)$", stored, body, flags=re.MULTILINE)
    return body.replace("entry:\n", f"entry:\n  %sent.table = alloca [{size} x i64], align 8\n", 1)


def _place(name: str, table: str, slot: int) -> str:
    return f"  {name} = getelementptr i64, ptr {table}, i64 {slot}\n"
