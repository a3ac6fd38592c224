"""Forecasts of many series at once, and how sure they are: a recurrent network trained by rnnc on quantiles.

    python examples/forecasting.py                    hourly demand of 40 sites, made on the spot
    python examples/forecasting.py --compare-torch    the same updates in PyTorch, side by side

At every hour the network forecasts the next 24, each by three quantiles (Wen et al. 2017, "A multi-horizon quantile
recurrent forecaster"). It reads the demand so far and whether the meter worked, what is known ahead of the next 24
hours (calendar, weather forecast, promotions), and what never changes of a site. Hours in which a meter failed are no
targets. So one call over a series is a whole rolling evaluation, and `advance` makes a forecast an hour.

It ends with errors beside those of the seasonal-naive forecast (the same hour a week ago), the coverage of the
intervals, and a picture.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import _demand
import _side_by_side
import numpy as np
from _demand import HOURS, WEEK, Demand

import rnnc
from rnnc import losses, schedules, train
from rnnc.optimizers import Adam

LEVELS = (0.1, 0.5, 0.9)


# -- data ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Series:
    """The demand as the network reads it.

    past: (sites, hours, 2), demand by its scale, 0 where it is missing, and whether it is there. ahead: (sites, hours,
    24 * 6). sites: (sites, 4). targets: (sites, hours, 24), NaN where missing or beyond the end.
    """

    past: Any
    ahead: Any
    sites: Any
    targets: Any

    @staticmethod
    def of(demand: Demand) -> Series:
        scaled = demand.values / demand.scale
        there = ~np.isnan(scaled)
        past = np.stack([np.where(there, scaled, 0), there], axis=2).astype(np.float32)
        ahead = next_hours(demand.ahead, 0.0).reshape(*scaled.shape, -1)
        return Series(past, ahead, demand.sites, next_hours(scaled[..., None], np.nan)[..., 0])

    def inputs(self, site: Any, hours: slice) -> dict[str, Any]:
        return {"past": self.past[site, hours], "ahead": self.ahead[site, hours], "site": self.sites[site]}


def next_hours(values: Any, filler: float) -> Any:
    """(sites, hours, N) -> (sites, hours, 24, N): of each hour the 24 that follow it."""
    padded = np.pad(values, ((0, 0), (1, HOURS), (0, 0)), constant_values=filler)[:, 1:]
    windows = np.lib.stride_tricks.sliding_window_view(padded, HOURS, axis=1)[:, 1 : values.shape[1] + 1]
    return np.ascontiguousarray(windows.swapaxes(2, 3), np.float32)


class Windows:
    """A data set for `fit`: stretches of the series, `size` hours long, that end before `stop`."""

    def __init__(self, series: Series, start: int, stop: int, size: int) -> None:
        sites = range(len(series.past))
        self.series, self.size = series, size
        self.places = [(site, first) for site in sites for first in range(start, stop - size + 1, size // 2)]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, number: int) -> tuple[dict[str, Any], Any]:
        site, first = self.places[number]
        hours = slice(first, first + self.size)
        return self.series.inputs(site, hours), self.series.targets[site, hours]


# -- the network -----------------------------------------------------------------------------------------


def network(series: Series, hidden: int, dropout: float) -> rnnc.Graph:
    widths = (series.past.shape[2], series.ahead.shape[2], series.sites.shape[1])
    return rnnc.Graph(
        inputs={"past": widths[0], "ahead": widths[1], "site": rnnc.Static(widths[2])},
        layers={
            "known": (rnnc.Concat(), "past", "ahead", "site"),
            "gru": (rnnc.GRU(sum(widths), hidden), "known"),
            "both": (rnnc.Concat(), "gru", "ahead", "site"),
            "drop": (rnnc.Dropout(dropout), "both"),
            "dense": (rnnc.Linear(hidden + widths[1] + widths[2], 2 * hidden), "drop"),
            "act": (rnnc.Activation("relu"), "dense"),
            "quantiles": (rnnc.Linear(2 * hidden, HOURS * len(LEVELS)), "act"),
        },
        outputs="quantiles",
    )


def trained_on(demand: Demand, series: Series, options: argparse.Namespace) -> train.Trained:
    first, second = demand.cuts
    return train.fit(
        network(series, options.hidden, options.dropout),
        Windows(series, 0, first - HOURS, options.window),
        validation=Windows(series, first, second - HOURS, min(options.window, second - first - HOURS)),
        loss=losses.quantile(LEVELS, missing="skip"),
        optimizer=Adam(options.rate),
        schedule=schedules.Cosine(options.epochs),
        epochs=options.epochs,
        batch_size=options.batch,
        clip=1.0,
        patience=5,
        progress=not options.quiet,
        threads=options.threads,
    )


# -- rolling evaluation ----------------------------------------------------------------------------------


def forecasts(net: rnnc.Network, series: Series) -> Any:
    """Of every site and hour the forecast of the next 24: (sites, hours, levels, 24), sorted, in one call."""
    found = net(
        {"past": series.past.swapaxes(0, 1), "ahead": series.ahead.swapaxes(0, 1), "site": series.sites}
    ).swapaxes(0, 1)
    return quantiles_of(found)


def quantiles_of(output: Any) -> Any:
    """(..., 24 * levels) as (..., levels, 24). Quantiles that cross are put in order."""
    return np.sort(output.reshape(*output.shape[:-1], HOURS, len(LEVELS)), axis=-1).swapaxes(-1, -2)


def report(demand: Demand, series: Series, found: Any) -> None:
    """Errors over all hours of the test weeks, by site scale, and the coverage of the interval."""
    test = slice(demand.cuts[1], demand.values.shape[1] - HOURS)
    truth, quantiles = series.targets[:, test], found[:, test]
    scaled = demand.values / demand.scale
    week_ago = next_hours(np.roll(scaled, WEEK, axis=1)[..., None], np.nan)[:, test, :, 0]
    rows = {
        "rnnc, median": np.abs(truth - quantiles[:, :, 1]),
        "a week ago": np.abs(truth - week_ago),
    }
    print("\nmean absolute error by hours ahead      1       6      12      24     all")
    for name, errors in rows.items():
        by_hour = [float(np.nanmean(errors[..., hour - 1])) for hour in (1, 6, 12, 24)]
        print(f"  {name:32}" + "".join(f"{error:8.3f}" for error in (*by_hour, float(np.nanmean(errors)))))
    there = ~np.isnan(truth)
    inside = (quantiles[:, :, 0] <= truth) & (truth <= quantiles[:, :, 2])
    below = [float((truth <= quantiles[:, :, i])[there].mean()) for i in range(len(LEVELS))]
    shares = ", ".join(f"{share:.1%}" for share in below)
    print(f"  in the 80% interval: {inside[there].mean():.1%}; below the quantiles: {shares}")


def streamed(net: rnnc.Network, series: Series, found: Any, hours: int = 200) -> None:
    """A forecast an hour, for all sites at once: the same numbers."""
    state, worst, seconds = None, 0.0, []
    for hour in range(hours):
        x = {name: values[:, hour][None] for name, values in (("past", series.past), ("ahead", series.ahead))}
        start = time.perf_counter()
        y, state = net.advance(x | {"site": series.sites}, state)
        seconds.append(time.perf_counter() - start)
        worst = max(worst, float(np.abs(quantiles_of(y[0]) - found[:, hour]).max()))
    print(f"\nstreamed: {np.median(seconds) * 1e6:.0f} us an hour for {len(series.past)} sites; differs by {worst:.0e}")


def draw(demand: Demand, found: Any, history: Sequence[train.Epoch], path: Path) -> None:
    """The last week of one site with a forecast at each midnight, and the learning curve."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 3.6), width_ratios=(3, 1), layout="constrained")
    site, stop = 0, demand.values.shape[1] - HOURS
    scale = float(demand.scale[site, 0])
    shown = np.arange(stop - WEEK, stop)
    left.plot(shown / HOURS, demand.values[site, shown], color="black", linewidth=1, label="demand")
    for hour in range(stop - WEEK, stop - 1, HOURS):
        ahead = np.arange(hour + 1, hour + 1 + HOURS) / HOURS
        low, middle, high = found[site, hour] * scale
        label = {"label": "median, 80% interval"} if hour == stop - WEEK else {}
        left.plot(ahead, middle, color="tab:blue", linewidth=1, **label)
        left.fill_between(ahead, low, high, color="tab:blue", alpha=0.2)
    left.set(xlabel="day", ylabel="demand", title="forecasts at midnight")
    left.legend()
    right.plot([line.epoch for line in history], [line.loss for line in history], label="training")
    right.plot([line.epoch for line in history], [line.validation_loss for line in history], label="validation")
    right.set(xlabel="epoch", ylabel="quantile loss")
    right.legend()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
    print(f"picture: {path}")


# -- beside PyTorch --------------------------------------------------------------------------------------


def batches_of(data: Windows, size: int) -> Iterator[tuple[dict[str, Any], Any]]:
    """Batches in order, time first."""
    for start in range(0, len(data) - size + 1, size):
        items = [data[number] for number in range(start, start + size)]
        inputs = {name: np.stack([x[name] for x, _ in items]) for name in items[0][0]}
        timed = {name: array.swapaxes(0, 1).copy() if array.ndim == 3 else array for name, array in inputs.items()}
        yield timed, np.stack([target for _, target in items]).swapaxes(0, 1).copy()


def compare(demand: Demand, series: Series, options: argparse.Namespace) -> int:
    """The same updates without dropout, one of each in turn: losses, and the time of each."""
    import torch
    from _forecast_torch import TorchForecaster

    torch.set_num_threads(options.threads or torch.get_num_threads())
    net = network(series, options.hidden, 0.0)
    loss = losses.quantile(LEVELS, missing="skip")
    step = train.TrainingStep(net, loss, Adam(options.rate), clip=1.0, threads=options.threads)
    peer = TorchForecaster(step.params, LEVELS, options.rate, clip=1.0)
    data = Windows(series, 0, demand.cuts[0] - HOURS, options.window)
    made = train.Sequences(net, loss, [data[number] for number in range(len(data))])
    found, seconds = [], []
    for number, (inputs, targets) in enumerate(batches_of(data, options.batch)):
        batch = made.batch(np.arange(number * options.batch, (number + 1) * options.batch))
        start = time.perf_counter()
        outcome, _ = step.step(batch)
        middle = time.perf_counter()
        theirs = peer.step(inputs, targets)
        seconds.append((middle - start, time.perf_counter() - middle))
        found.append((outcome.loss, theirs))
    _side_by_side.report(seconds, found)
    return 0


# -- command line ----------------------------------------------------------------------------------------


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    about, details = (__doc__ or "").split("\n", 1)
    parser = argparse.ArgumentParser(
        description=about, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--sites", type=int, default=40, metavar="N", help="series (default: 40)")
    add("--weeks", type=int, default=24, metavar="N", help="their length (default: 24; at least 8)")
    add("--hidden", type=int, default=64, metavar="N", help="units of the GRU (default: 64)")
    add("--dropout", type=float, default=0.1, metavar="P", help="before the dense layers (default: 0.1)")
    add("--rate", type=float, default=3e-3, metavar="X", help="the learning rate (default: 0.003)")
    add("--epochs", type=int, default=15, metavar="N", help="times over the data (default: 15)")
    add("--batch", type=int, default=32, metavar="N", help="stretches in a batch (default: 32)")
    add("--window", type=int, default=2 * WEEK, metavar="N", help="hours of a stretch (default: 336)")
    add("--picture", type=Path, default=Path("forecasting.png"), metavar="FILE", help="forecasts, learning curve")
    add("--no-picture", dest="picture", action="store_const", const=None, help="draw nothing")
    add("--save", type=Path, metavar="FILE", help="write the model to a file, for rnnc.load")
    add("--compare-torch", action="store_true", help="the same updates in PyTorch, too")
    add("--threads", type=int, metavar="N", help="default: all cores")
    add("--quiet", action="store_true", help="no progress bars")
    options = parser.parse_args(arguments)
    if options.weeks < 8:
        parser.error("--weeks: expected at least 8")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; 0, or 2 if a package is not there."""
    options = parse(arguments)
    demand = _demand.made_up(options.sites, options.weeks)
    series = Series.of(demand)
    missing = np.isnan(demand.values).mean()
    print(f"{options.sites} sites, {options.weeks} weeks of hours, {missing:.1%} missing")
    try:
        if options.compare_torch:
            return compare(demand, series, options)
        trained = trained_on(demand, series, options)
        net = trained.compile()
        found = forecasts(net, series)
        report(demand, series, found)
        streamed(net, series, found)
        if options.picture is not None:
            draw(demand, found, trained.history, options.picture)
        if options.save is not None:
            trained.save(options.save)
        return 0
    except (OSError, rnnc.RnncError, ImportError) as error:
        print(f"forecasting: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
