"""Libraries that are written without a linker: they load, they run, and tools that read them find nothing to say."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest

from rnnc.backends.llvm.asm.elf import LAYOUTS
from rnnc.backends.llvm.asm.library import binding, use
from rnnc.exporting.linking import fields
from rnnc.exporting.linking.archive import archive
from rnnc.exporting.linking.dispatch import dispatcher
from rnnc.exporting.linking.fields import Field
from rnnc.exporting.linking.shared_object import shared_object
from rnnc.ir.errors import BackendError
from tests.foreign_machines import MACHINES, X86_64, Machine

FIRST = """
@bytes = private constant [4 x i8] c"\\01\\02\\03\\04", align 1
@shorts = private constant [4 x i16] [i16 10, i16 20, i16 30, i16 40], align 2
@words = private constant [4 x i32] [i32 100, i32 200, i32 300, i32 400], align 4
@longs = private constant [4 x i64] [i64 1000, i64 2000, i64 3000, i64 4000], align 8
@vectors = private constant [4 x <4 x float>] [
  <4 x float> <float 1.0, float 2.0, float 3.0, float 4.0>, <4 x float> <float 5.0, float 6.0, float 7.0, float 8.0>,
  <4 x float> zeroinitializer, <4 x float> <float 9.0, float 8.0, float 7.0, float 6.0>], align 64
@seen = constant i32 7, align 4
@hidden = hidden constant i32 70000, align 4
@functions = internal constant [4 x ptr] [ptr @one, ptr @two, ptr @t_third, ptr @one]

declare i64 @t_third(i64)
declare hidden i64 @t_hidden(i64)

define internal i64 @one(i64 %x) noinline nounwind { %r = add i64 %x, 100000  ret i64 %r }
define internal i64 @two(i64 %x) noinline nounwind { %r = mul i64 %x, 2  ret i64 %r }

define i64 @t_loads(i32 %i) nounwind {
  %k = and i32 %i, 3
  %p1 = getelementptr i8, ptr @bytes, i32 %k
  %p2 = getelementptr i16, ptr @shorts, i32 %k
  %p3 = getelementptr i32, ptr @words, i32 %k
  %p4 = getelementptr i64, ptr @longs, i32 %k
  %v1 = load i8, ptr %p1
  %v2 = load i16, ptr %p2
  %v3 = load i32, ptr %p3
  %v4 = load i64, ptr %p4
  %fixed = load i8, ptr getelementptr (i8, ptr @bytes, i32 3)
  %fixed2 = load i16, ptr getelementptr (i16, ptr @shorts, i32 3)
  %fixed3 = load i32, ptr getelementptr (i32, ptr @words, i32 3)
  %fixed4 = load i64, ptr getelementptr (i64, ptr @longs, i32 3)
  %w1 = zext i8 %v1 to i64
  %w2 = zext i16 %v2 to i64
  %w3 = zext i32 %v3 to i64
  %u1 = zext i8 %fixed to i64
  %u2 = zext i16 %fixed2 to i64
  %u3 = zext i32 %fixed3 to i64
  %a = add i64 %w1, %w2
  %b = add i64 %w3, %v4
  %c = add i64 %u1, %u2
  %d = add i64 %u3, %fixed4
  %e = add i64 %a, %b
  %f = add i64 %c, %d
  %g = add i64 %e, %f
  ret i64 %g
}

define void @t_vector(i32 %i, ptr %out) nounwind {
  %k = and i32 %i, 3
  %p = getelementptr <4 x float>, ptr @vectors, i32 %k
  %v = load <4 x float>, ptr %p, align 16
  %last = load <4 x float>, ptr getelementptr (<4 x float>, ptr @vectors, i32 3), align 16
  %s = fadd <4 x float> %v, %last
  store <4 x float> %s, ptr %out, align 4
  ret void
}

define i64 @t_pointed(i32 %i, i64 %x) nounwind {
  %k = and i32 %i, 3
  %p = getelementptr [4 x ptr], ptr @functions, i32 0, i32 %k
  %f = load ptr, ptr %p
  %r = call i64 %f(i64 %x)
  ret i64 %r
}

define i64 @t_globals() nounwind {
  %a = load volatile i32, ptr @seen
  %b = load volatile i32, ptr @hidden
  %s = add i32 %a, %b
  %w = zext i32 %s to i64
  %r = call i64 @t_hidden(i64 %w)
  ret i64 %r
}

define i64 @t_switched(i32 %i) nounwind {
  switch i32 %i, label %other [ i32 0, label %a i32 1, label %b i32 2, label %c i32 3, label %d i32 4, label %e ]
a:
  %ra = call i64 @one(i64 1)
  ret i64 %ra
b:
  %rb = call i64 @two(i64 2)
  ret i64 %rb
c:
  %rc = tail call i64 @t_third(i64 3)
  ret i64 %rc
d:
  ret i64 44
e:
  %re = call i64 @one(i64 5)
  %re2 = call i64 @two(i64 %re)
  ret i64 %re2
other:
  ret i64 -1
}
"""

SECOND = """
@scale = private constant double 3.0, align 8
define i64 @t_third(i64 %x) nounwind {
  %d = load volatile double, ptr @scale
  %n = fptosi double %d to i32
  %i = sext i32 %n to i64
  %r = mul i64 %x, %i
  ret i64 %r
}
define hidden i64 @t_hidden(i64 %x) nounwind { %r = add i64 %x, 1  ret i64 %r }
"""

NAMES = ["t_loads", "t_vector", "t_pointed", "t_globals", "t_switched", "t_third"]

MAIN = """
#include <stdint.h>
#include <stdio.h>
extern int64_t t_loads(int32_t), t_pointed(int32_t, int64_t), t_globals(void), t_switched(int32_t), t_third(int64_t);
extern void t_vector(int32_t, float *);
int main(void) {
    float v[4];
    for (int32_t i = 0; i < 4; i++) {
        t_vector(i, v);
        printf("%lld %lld %g %g ", (long long)t_loads(i), (long long)t_pointed(i, 7), v[0], v[3]);
    }
    for (int32_t i = -1; i < 6; i++) printf("%lld ", (long long)t_switched(i));
    printf("%lld %lld\\n", (long long)t_globals(), (long long)t_third(5));
    return 0;
}
"""


def expected() -> str:
    vectors = [(1, 4), (5, 8), (0, 0), (9, 6)]
    pointed = [100007, 14, 21, 100007]
    lines = [f"{1111 * (i + 1) + 4444} {pointed[i]} {vectors[i][0] + 9} {vectors[i][1] + 6}" for i in range(4)]
    return " ".join([*lines, "-1 100001 4 9 44 200010 -1", "70008 15\n"])


def compiled(text: str, machine: Machine = X86_64, *, reloc: str = "pic") -> bytes:
    """An object file of LLVM's text."""

    def work() -> bytes:
        llvm = binding()
        llvm.initialize_all_targets()
        llvm.initialize_all_asmprinters()
        target = llvm.Target.from_triple(machine.triple)
        code = target.create_target_machine(features=machine.features, opt=2, reloc=reloc, codemodel="small")
        module = llvm.parse_assembly(text)
        module.triple, module.data_layout = machine.triple, str(code.target_data)
        module.verify()
        content: bytes = code.emit_object(module)
        return content

    return use(work)


def library(machine: Machine = X86_64) -> bytes:
    objects = [compiled(FIRST, machine), compiled(SECOND, machine)]
    return shared_object(objects, "libt.so", exported=NAMES, flags=machine.flags)


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine.name)
def test_a_library_is_well_formed(machine: Machine, tmp_path: Path) -> None:
    content = library(machine)
    check_segments(content)
    (tmp_path / "libt.so").write_bytes(content)
    for tool in ("readelf", "llvm-readelf", "eu-elflint"):
        if shutil.which(tool):
            options = ["--gnu-ld"] if tool == "eu-elflint" else ["-aW"]
            run = subprocess.run([tool, *options, tmp_path / "libt.so"], capture_output=True, text=True)
            assert not run.stderr and run.returncode == 0, run.stderr or run.stdout
    assert content == library(machine), "the same objects give the same file"


def check_segments(content: bytes) -> None:
    """No page is both written and run, and nothing but headers, constants and code is mapped from other pages."""
    layout = LAYOUTS[content[4]]
    header = layout.header.unpack_from(content)
    loaded = []
    for n in range(header[10]):
        fields_ = layout.segment.unpack_from(content, header[5] + n * layout.segment.size)
        kind, address, size = fields_[0], fields_[3 if layout.bits == 64 else 2], fields_[5 - (layout.bits == 32) + 1]
        flags, offset = (fields_[1], fields_[2]) if layout.bits == 64 else (fields_[6], fields_[1])
        assert flags & 3 != 3, "a segment is written and run"
        if kind == 1:
            loaded.append((address, address + size, flags))
            assert address % fields_[7] == offset % fields_[7]
    assert [flags for *_, flags in loaded] == [4, 5, 6]
    for (_, end, _), (start, *_) in zip(loaded, loaded[1:], strict=False):
        assert end <= start and end // 4096 < -(-(start + 1) // 4096)


@pytest.mark.skipif(not X86_64.is_here, reason="the library is of x86-64")
def test_a_library_loads_and_runs_here(tmp_path: Path) -> None:
    (tmp_path / "libt.so").write_bytes(library())
    loaded = ctypes.CDLL(str(tmp_path / "libt.so"))
    for name in ("t_loads", "t_pointed", "t_globals", "t_switched", "t_third"):
        getattr(loaded, name).restype = ctypes.c_int64
    assert [loaded.t_switched(i) for i in range(-1, 6)] == [-1, 100001, 4, 9, 44, 200010, -1]
    assert [loaded.t_pointed(i, ctypes.c_int64(7)) for i in range(4)] == [100007, 14, 21, 100007]
    assert (loaded.t_globals(), loaded.t_third(ctypes.c_int64(5))) == (70008, 15)
    assert [loaded.t_loads(i) for i in range(4)] == [5555, 6666, 7777, 8888]
    out = (ctypes.c_float * 4)()
    loaded.t_vector(1, out)
    assert list(out) == [14, 14, 14, 14]
    for unseen in ("t_hidden", "hidden", "seen", "one"):
        assert not hasattr(loaded, unseen)


@pytest.mark.rare
@pytest.mark.parametrize("kind", ["shared", "archive"])
@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine.name)
def test_programs_of_each_machine_are_linked_with_it(machine: Machine, kind: str, tmp_path: Path) -> None:
    machine.need()
    main = tmp_path / "main.c"
    main.write_text(MAIN)
    if kind == "shared":
        (tmp_path / "libt.so").write_bytes(library(machine))
        program = machine.build([main], tmp_path / "main", str(tmp_path / "libt.so"), f"-Wl,-rpath,{tmp_path}")
    else:
        objects = {
            f"{name}.o": compiled(text, machine) for name, text in (("first", FIRST), ("a_long_name" * 3, SECOND))
        }
        (tmp_path / "libt.a").write_bytes(archive(objects))
        program = machine.build([main], tmp_path / "main", "-static", str(tmp_path / "libt.a"))
    assert machine.run(program) == expected()


# ---- one of several


VARIANTS = {"x86-64-v2": "t_v2", "x86-64-v3": "t_v3", "x86-64-v4": "t_v4"}


def fat_objects() -> list[bytes]:
    texts = [f"define i32 @t_v{n}_f() {{ ret i32 {n} }} define i32 @t_v{n}_g() {{ ret i32 {n}0 }}" for n in (2, 3, 4)]
    return [*map(compiled, texts), dispatcher("t", ["f", "g"], VARIANTS)]


@pytest.mark.skipif(not X86_64.is_here, reason="the library is of x86-64")
def test_a_function_is_the_best_variant_that_the_processor_runs(tmp_path: Path) -> None:
    (tmp_path / "libf.so").write_bytes(shared_object(fat_objects(), "libf.so", exported=["t_f", "t_g"]))
    loaded = ctypes.CDLL(str(tmp_path / "libf.so"))
    known = Path("/proc/cpuinfo").read_text().split()
    level = 4 if "avx512vl" in known and "avx512bw" in known else 3 if "avx2" in known and "fma" in known else 2
    assert (loaded.t_f(), loaded.t_g()) == (level, 10 * level)


@pytest.mark.rare
@pytest.mark.parametrize("kind", ["shared", "archive"])
@pytest.mark.parametrize(("processor", "level"), [("Nehalem", 2), ("Haswell,-hle,-rtm", 3), ("Haswell,-avx2", 2)])
def test_other_processors_get_what_they_run(processor: str, level: int, kind: str, tmp_path: Path) -> None:
    if shutil.which("qemu-x86_64") is None:
        pytest.skip("qemu-x86_64 is not installed")
    X86_64.need()
    main = tmp_path / "main.c"
    text = 'extern int t_f(void), t_g(void);\nint main(void) { printf("%d %d", t_f(), t_g()); return 0; }\n'
    main.write_text(f"#include <stdio.h>\n{text}")
    objects = fat_objects()
    if kind == "shared":
        (tmp_path / "libf.so").write_bytes(shared_object(objects, "libf.so", exported=["t_f", "t_g"]))
        program = X86_64.build([main], tmp_path / "main", str(tmp_path / "libf.so"), f"-Wl,-rpath,{tmp_path}")
    else:
        (tmp_path / "libf.a").write_bytes(archive({f"{n}.o": content for n, content in enumerate(objects)}))
        program = X86_64.build([main], tmp_path / "main", "-static", str(tmp_path / "libf.a"))
    command = ["qemu-x86_64", "-cpu", processor, str(program)]
    run = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    assert run.stdout == f"{level} {level}0"


# ---- refusals


INDEXED = """
@g = dso_local constant [4 x i32] [i32 1, i32 2, i32 3, i32 4]
define i32 @f(i64 %i) { %p = getelementptr [4 x i32], ptr @g, i64 0, i64 %i  %x = load i32, ptr %p  ret i32 %x }
"""


@pytest.mark.parametrize(
    ("texts", "reloc", "said"),
    [
        (["declare void @memcpy()\ndefine void @f() { call void @memcpy() ret void }"], "pic", "defines memcpy"),
        (["@g = global i32 5\ndefine ptr @f() { ret ptr @g }"], "pic", "section .data is writable"),
        (["@g = internal global i32 0\ndefine ptr @f() { ret ptr @g }"], "pic", "section .bss is writable"),
        (["define void @f() { ret void }"] * 2, "pic", "two object files define f"),
        ([INDEXED], "static", "no rule for relocation"),
        (["@p = constant ptr @f\ndefine ptr @f() { %x = load ptr, ptr @p ret ptr %x }"], "static", "holds an address"),
        (["define void @g() { ret void }"], "pic", "no object file defines f, which the library is to export"),
    ],
)
def test_what_cannot_be_linked_is_refused(texts: list[str], reloc: str, said: str) -> None:
    with pytest.raises(BackendError, match=said):
        shared_object([compiled(text, reloc=reloc) for text in texts], "libt.so", exported=["f"])


def test_object_files_of_other_kinds_are_refused() -> None:
    here, there = compiled(SECOND), compiled(SECOND, MACHINES[1])
    with pytest.raises(BackendError, match=r"one processor, got the numbers \[62, 183\]"):
        shared_object([here, there], "libt.so")
    with pytest.raises(BackendError, match="little-endian ELF"):
        shared_object([b"\0asm\1\0\0\0"], "libt.so")


SIGNED = [name for name, value in vars(fields).items() if isinstance(value, Field) and value.bits is not None]


@pytest.mark.parametrize("name", SIGNED)
def test_numbers_that_do_not_fit_are_refused(name: str) -> None:
    field: Field = getattr(fields, name)
    assert field.bits is not None
    content = bytearray(field.size)
    largest = (1 << field.bits - 1) - field.unit
    field.write(content, 0, largest)
    if field.decode is not None:
        assert field.addend(content, 0) == largest
    for number in (largest + field.unit, -(1 << field.bits - 1) - field.unit):
        with pytest.raises(OverflowError):
            field.write(content, 0, number)
    if field.unit > 1:
        with pytest.raises(ValueError, match="no multiple"):
            field.write(content, 0, 1)
