"""Programs around exported streams: in C, and on a machine without a system; they read x, and print what comes out.

A program runs a stream step by step, and then again at once, in memory of the exact sizes, which is filled with 255
first. It prints every number as the hexadecimal digits of its bytes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

import rnnc
from rnnc.backends.llvm.portable.interface import CInterface

PROGRAM = """
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "net.h"
#include "given.h"

static void show(const unsigned char *y, size_t size) {
    for (size_t n = 0; n < size; n++) printf("%02x", y[n]);
    printf("\\n");
}

static unsigned char *filled(size_t size) {
    unsigned char *found = malloc(size);
    if (found == NULL) exit(9);
    memset(found, 255, size);
    return found;
}

#ifdef COUNTED
static size_t taken, counted;
static _Alignas(64) unsigned char room[1 << 22];
void *malloc(size_t size) { size_t at = taken; taken += (size + 63) / 64 * 64; counted++; return room + at; }
void *calloc(size_t n, size_t size) { return memset(malloc(n * size), 0, n * size); }
void *realloc(void *old, size_t size) { void *made = malloc(size); return old ? memcpy(made, old, size) : made; }
void free(void *old) { (void)old; counted++; }
#endif

int main(void) {
    unsigned char *x = filled(FRAMES * X_BYTES), *y = filled(FRAMES * Y_BYTES), *state = filled(net_state_size());
    unsigned char *scratch = filled(net_scratch_size(FRAMES));
    memcpy(x, given, FRAMES * X_BYTES);
    int bad = net_step(state, (const void *)x, (void *)y) != NET_FOREIGN_STATE;
#ifdef COUNTED
    size_t before = counted;
#endif
    bad |= net_reset(state);
    for (size_t n = 0; n < FRAMES; n++)
        bad |= net_step(state, (const void *)(x + n * X_BYTES), (void *)(y + n * Y_BYTES));
#ifdef COUNTED
    bad |= counted != before;
#endif
    show(y, FRAMES * Y_BYTES);
    memset(state, 255, net_state_size());
    memset(y, 255, FRAMES * Y_BYTES);
#ifdef COUNTED
    before = counted;
#endif
    bad |= net_reset(state) | net_run(state, FRAMES, (const void *)x, (void *)y, scratch);
#ifdef COUNTED
    bad |= counted != before;
#endif
    show(y, FRAMES * Y_BYTES);
    free(x), free(y), free(state), free(scratch);
    return bad;
}
"""

FRAMES = 7


def write_program(folder: Path, api: CInterface, x: Any) -> Path:
    """The program's source, with x in a header."""
    content = ", ".join(map(str, x.tobytes()))
    sizes = {"FRAMES": len(x), "X_BYTES": api.inputs[0].bytes, "Y_BYTES": api.outputs[0].bytes}
    defined = "".join(f"#define {name} ((size_t){size})\n" for name, size in sizes.items())
    (folder / "given.h").write_text(f"{defined}static const unsigned char given[] = {{{content}}};\n")
    (folder / "main.c").write_text(PROGRAM)
    return folder / "main.c"


def given(api: CInterface) -> Any:
    """Random x, (FRAMES, width)."""
    port, rng = api.inputs[0], np.random.default_rng(8)
    shape = (FRAMES, port.width)
    return (rng.integers(0, port.rows, shape) if port.rows else rng.standard_normal(shape)).astype(port.dtype)


def expected(model: Any, api: CInterface, x: Any) -> Any:
    """What the model gives, (FRAMES, width)."""
    port = api.inputs[0]
    spec = model.spec if isinstance(model, rnnc.Model) else None
    rows = x.reshape(-1, 1) if port.rows else x.reshape(len(x) * api.frame, 1, -1)
    output, _ = model.advance(rows.swapaxes(0, 1) if spec is not None and spec.batch_first else rows)
    return output.reshape(len(x), -1)


def shown(text: str, api: CInterface) -> list[Any]:
    """The two results that a program has printed."""
    arrays = [np.frombuffer(bytes.fromhex(line), api.outputs[0].dtype) for line in text.split()]
    assert len(arrays) == 2
    return [array.reshape(-1, api.outputs[0].width) for array in arrays]
