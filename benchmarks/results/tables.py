"""A record as Markdown: one table per part and number of threads, with a column for whatever some row has."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from benchmarks.results.record import OURS, Record, Row, mean_gain

TITLES = {
    "inference": "Inference",
    "training": "A training step: the forward pass, and the gradients of all parameters, of x and of the initial state",
    "small": "Small nets and single steps",
    "narrow": "Narrow weights",
    "startup": "Start-up: from the import to the first result, in a fresh process that has loaded NumPy",
    "latency": "Latency: percentiles of wall time",
}
Column = tuple[str, Callable[[Row], str]]


def markdown(record: Record) -> str:
    parts = [heading(record)]
    for part, title in TITLES.items():
        for threads in sorted({row.threads for row in record.rows}):
            rows = record.of_part(part, threads)
            if rows:
                parts.append(f"## {title}, {count(threads)}\n\n{table(rows, record)}{closing(rows)}")
    return "\n\n".join(parts) + "\n"


def heading(record: Record) -> str:
    machine = record.machine
    peaks = ", ".join(f"{count(int(n))} {peak / 1e9:.0f}" for n, peak in machine["peak"].items())
    rates = ", ".join(f"{level} {rate / 1e9:.0f}" for level, rate in machine["bandwidth"].items())
    packages = ", ".join(f"{name} {version}" for name, version in record.packages.items())
    return (
        f"{machine['name']}, {machine['cores']} cores; {packages}\n\n"
        f"Measured peaks: float32 GFLOP/s {peaks}; GB/s of one core reading {rates}. Medians in microseconds: CPU time "
        "for one thread, wall time for more and for start-up and latency."
    )


def table(rows: Sequence[Row], record: Record) -> str:
    shown = [column for column in columns(rows, record) if any(column[1](row) for row in rows)]
    lines = ["| " + " | ".join(title for title, _ in shown) + " |", "|---" * len(shown) + "|"]
    lines += ["| " + " | ".join(cell(row) for _, cell in shown) + " |" for row in rows]
    return "\n".join(lines)


def columns(rows: Sequence[Row], record: Record) -> list[Column]:
    others = unique(name for row in rows for name in row.timings if name != OURS and name.split()[0] == OURS)
    peers = unique(peer for row in rows for peer in row.peers)
    alone = {row.key: row for row in record.rows}
    return [
        ("workload", lambda row: row.name),
        ("rnnc us", lambda row: microseconds(row.ours)),
        *((f"{name} us", lambda row, name=name: timed(row, name)) for name in others),  # type: ignore[misc]
        *((f"{peer} us", lambda row, peer=peer: microseconds(row.peers.get(peer))) for peer in peers),  # type: ignore[misc]
        ("best peer / rnnc", best),
        ("of roofline", lambda row: "" if row.share is None else f"{row.share:.0%}"),
        ("of peak", lambda row: f"{row.roofline.flops / row.ours / row.roofline.peak:.0%}" if row.roofline else ""),
        ("weights from", lambda row: row.roofline.level if row.roofline else ""),
        ("1 thread / this", lambda row: speedup(row, alone.get((row.part, row.name, 1)))),
        *(
            (title, lambda row, title=title: figure(row.figures.get(title)))  # type: ignore[misc]
            for title in unique(title for row in rows for title in row.figures)
        ),
        ("error", lambda row: f"{row.errors[OURS]:.0e}" if OURS in row.errors else ""),
    ]


def closing(rows: Sequence[Row]) -> str:
    mean = mean_gain(list(rows))
    text = f"\n\nGeometric mean of best peer / rnnc: {mean:.2f}." if mean and len(rows) > 1 else ""
    notes = [f"{row.name}: {peer} left out, {why}" for row in rows for peer, why in row.notes.items()]
    return text + "".join(f"\n\n{note}." for note in notes)


def best(row: Row) -> str:
    return f"{row.gain:.2f} ({row.best_peer[0]})" if row.gain and row.best_peer else ""


def speedup(row: Row, alone: Row | None) -> str:
    return f"{alone.ours / row.ours:.2f}" if alone is not None and row.threads > 1 else ""


def timed(row: Row, name: str) -> str:
    return microseconds(row.timings[name].median) if name in row.timings else ""


def microseconds(seconds: float | None) -> str:
    return "" if seconds is None else number(seconds * 1e6)


def figure(value: float | None) -> str:
    return "" if value is None else number(value)


def number(value: float) -> str:
    """Three digits at least."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def count(threads: int) -> str:
    return "one thread" if threads == 1 else f"{threads} threads"


def unique(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))
