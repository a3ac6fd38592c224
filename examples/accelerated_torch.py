"""A PyTorch program, accelerated in one line: the same module, optimiser and loop, before and after.

    python examples/accelerated_torch.py                 a forecaster of quantiles with an nn.GRU
    python examples/accelerated_torch.py --cell LSTM     another cell; --hidden, --epochs, --threads

`rnnc.torch.accelerate(model)` puts rnnc's modules in the place of PyTorch's recurrent ones. They hold the very same
Parameters, so the optimiser, the state_dict and everything else stay as they are. Both programs train on the same
batches, an epoch of one after an epoch of the other; the losses and the time of each are printed side by side, then
the time of a call for one site and of one for all.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any

import _demand
from forecasting import LEVELS, Series, Windows, batches_of

import rnnc


def build(options: argparse.Namespace, series: Series) -> Any:
    """The PyTorch module. Nothing in it knows of rnnc."""
    import torch
    from torch import nn

    class Forecaster(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            known = series.past.shape[2] + series.ahead.shape[2] + series.sites.shape[1]
            self.rnn = getattr(nn, options.cell)(known, options.hidden, num_layers=2)
            self.dense = nn.Linear(options.hidden, 24 * len(LEVELS))

        def forward(self, past: Any, ahead: Any, site: Any) -> Any:
            x = torch.cat([past, ahead, site.expand(len(past), -1, -1)], -1)
            return self.dense(self.rnn(x)[0]).unflatten(-1, (24, -1))

    torch.manual_seed(0)
    return Forecaster()


class Program:
    """A module with its optimiser, and a loop as PyTorch's users write it."""

    def __init__(self, module: Any) -> None:
        import torch

        self.module, self.torch = module, torch
        self.optimizer = torch.optim.Adam(module.parameters(), 3e-3)
        self.levels = torch.tensor(LEVELS)

    def epoch(self, batches: Sequence[tuple[dict[str, Any], Any]]) -> tuple[float, float]:
        """The mean loss of an epoch, and its seconds."""
        torch, losses = self.torch, []
        start = time.perf_counter()
        for inputs, targets in batches:
            self.optimizer.zero_grad()
            found = self.module(**{name: torch.from_numpy(array) for name, array in inputs.items()})
            target = torch.from_numpy(targets)[..., None]
            error = torch.nan_to_num(target) - found
            each = torch.maximum(self.levels * error, (self.levels - 1) * error)
            loss = each[~torch.isnan(target).expand_as(each)].mean()
            loss.backward()
            self.optimizer.step()
            losses.append(float(loss.detach()))
        return statistics.mean(losses), time.perf_counter() - start

    def seconds_of_a_call(self, inputs: dict[str, Any]) -> float:
        """The median of several calls without gradients."""
        given, taken = {name: self.torch.from_numpy(array) for name, array in inputs.items()}, []
        with self.torch.no_grad():
            for _ in range(7):
                start = time.perf_counter()
                self.module(**given)
                taken.append(time.perf_counter() - start)
        return statistics.median(taken)


def run(options: argparse.Namespace) -> None:
    import torch

    import rnnc.torch

    torch.set_num_threads(options.threads or torch.get_num_threads())
    demand = _demand.made_up(options.sites, 8)
    series = Series.of(demand)
    batches = list(batches_of(Windows(series, 0, demand.cuts[0], 168), 8))
    plain = build(options, series)
    fast = rnnc.torch.accelerate(copy.deepcopy(plain))  # the one line
    print(rnnc.torch.explain(fast))
    before, after = Program(plain), Program(fast)
    print(f"PyTorch {torch.__version__}, {torch.get_num_threads()} threads, {len(batches)} updates an epoch")
    print("\n  epoch      loss, before      after     seconds, before   after")
    for epoch in range(options.epochs):
        (one, slow), (other, quick) = before.epoch(batches), after.epoch(batches)
        print(f"  {epoch + 1:5} {one:17.6f} {other:10.6f} {slow:17.3f} {quick:7.3f}   {slow / quick:5.2f} x")
    for rows in (1, 8):
        first = batches[0][0].items()
        inputs = {name: (array[:, :rows] if array.ndim == 3 else array[:rows]).copy() for name, array in first}
        slow, quick = before.seconds_of_a_call(inputs), after.seconds_of_a_call(inputs)
        times = f"{slow * 1e3:8.2f} ms before, {quick * 1e3:8.2f} ms after"
        print(f"  a call, {rows} sites: {times}   {slow / quick:5.2f} x")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; 0, or 2 if a package is not there."""
    about, details = (__doc__ or "").split("\n", 1)
    parser = argparse.ArgumentParser(
        description=about, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cell", choices=("RNN", "GRU", "LSTM"), default="GRU", help="the recurrent module of PyTorch")
    parser.add_argument("--hidden", type=int, default=64, metavar="N", help="units of a layer (default: 64)")
    parser.add_argument("--sites", type=int, default=24, metavar="N", help="series (default: 24)")
    parser.add_argument("--epochs", type=int, default=3, metavar="N", help="times over the data (default: 3)")
    parser.add_argument("--threads", type=int, metavar="N", help="default: PyTorch's")
    try:
        run(parser.parse_args(arguments))
        return 0
    except (rnnc.RnncError, ImportError) as error:
        print(f"accelerated_torch: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
