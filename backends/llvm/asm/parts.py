"""The parts of a module: pieces of text that LLVM compiles one by one.

    module                               parts
    @phase_loop0_step0, @rnnc_run   ->   @rnnc.3f1c...                       calls nothing else
                                         @rnnc_run, calls @rnnc.3f1c...      the rest of the module

A function that calls intrinsics only is a part of its own, and is linked by a name that is a digest of its text. Equal
functions of different modules are equal parts, so the second module need not compile them again: the phases of networks
that differ in sizes alone, or of a network and its derivatives, are often equal.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass

from rnnc.backends.llvm.asm.builder import Module


@dataclass(frozen=True)
class Parts:
    """The texts of the parts, and the symbol of each function that is not linked by its own name."""

    texts: tuple[str, ...]
    symbols: Mapping[str, str]


def parts_of(module: Module, symbols: Mapping[str, str]) -> Parts:
    """The parts of a module. symbols: of the functions of other modules, by the names that this one calls."""
    rest, alone = module.parts()
    own: dict[str, str] = {}
    texts = []
    for function in alone:
        text = Module([function]).text().replace(f"@{function.name}(", "@(", 1)
        own[function.name] = f"rnnc.{hashlib.sha256(text.encode()).hexdigest()[:32]}"
        texts.append(text.replace("@(", f"@{own[function.name]}(", 1))
    if rest.functions:
        texts.append(renamed(rest.text(), {**symbols, **own}))
    return Parts(tuple(texts), own)


def renamed(text: str, symbols: Mapping[str, str]) -> str:
    """The text of a module, with some functions renamed."""
    if not symbols:
        return text
    return re.sub(rf"@({'|'.join(symbols)})\(", lambda found: f"@{symbols[found[1]]}(", text)
