"""A language model of characters or words: trained by rnnc, measured in bits per character, and asked to write.

    python examples/language_model.py                         the text of Python's own help topics
    python examples/language_model.py book.txt --words        a text of yours, word by word
    python examples/language_model.py --prompt "The import "  how the text that it writes begins
    python examples/language_model.py --compare-torch         the same updates in PyTorch, side by side

The network: a table of vectors, an LSTM with dropout whose masks stay the same along a text (Gal & Ghahramani 2016), a
layer back to the size of the table, and scores by the same table (Press & Wolf 2017). The text is cut into as many
columns as a batch has rows, and is read in windows; the states go on from window to window (truncated backpropagation
through time). The end of the text is held out.
"""

from __future__ import annotations

import argparse
import bz2
import re
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import _side_by_side
import numpy as np

import rnnc
from rnnc import schedules, train
from rnnc.optimizers import Adam

UNKNOWN = "\ufffd"
WORD = re.compile(r"\w+|\s+|[^\w\s]")


@dataclass(frozen=True)
class Text:
    """A text as numbers. symbols: what they stand for; number 0 is any symbol that is rare in the training text."""

    symbols: list[str]
    training: Any
    held_out: Any
    held_out_text: str

    @staticmethod
    def of(text: str, words: bool, min_count: int) -> Text:
        """The first nine tenths to train on, the rest held out."""
        cut = text.rfind("\n", 0, len(text) * 9 // 10) + 1 or len(text) * 9 // 10
        parts = [split(text[:cut], words), split(text[cut:], words)]
        counts = Counter(parts[0])
        symbols = [UNKNOWN, *sorted(symbol for symbol, count in counts.items() if count >= min_count)]
        number = {symbol: i for i, symbol in enumerate(symbols)}
        numbers = (np.array([number.get(symbol, 0) for symbol in part]) for part in parts)
        return Text(symbols, *numbers, text[cut:])

    def numbers(self, text: str, words: bool) -> Any:
        """A text as the network reads it."""
        number = {symbol: i for i, symbol in enumerate(self.symbols)}
        return np.array([number.get(symbol, 0) for symbol in split(text, words)])


def split(text: str, words: bool) -> list[str]:
    return WORD.findall(text) if words else list(text)


def help_topics() -> str:
    """The text that `help("topics")` of this Python shows."""
    from pydoc_data.topics import topics

    return "\n\n".join(topics[name] for name in sorted(topics))


def network(symbols: int, options: argparse.Namespace) -> rnnc.Graph:
    size, width = options.embedding, options.hidden
    lstm = rnnc.LSTM(size, width, num_layers=options.layers, dropout=options.dropout if options.layers > 1 else 0)
    return rnnc.Graph(
        inputs={"last": rnnc.NUMBERS},
        layers={
            "table": (rnnc.Embedding(symbols, size), "last"),
            "drop": (rnnc.Dropout(options.dropout, variational=True), "table"),
            "lstm": (rnnc.Regularized(lstm, recurrent_dropout=options.dropout, variational=True), "drop"),
            "drop_top": (rnnc.Dropout(options.dropout, variational=True), "lstm"),
            "back": (rnnc.Linear(width, size), "drop_top"),
            "scores": (rnnc.Linear(size, symbols), "back", {"weight": "table.weight"}),
        },
        outputs="scores",
    )


def initial(net: rnnc.Graph, size: int) -> dict[str, Any]:
    """The parameters to start from. The table is small, because its rows are also the weights of the scores."""
    params = net.init(seed=0)
    params["table.weight"] *= size**-0.5
    return params


def columns(numbers: Any, rows: int) -> list[tuple[Any, Any]]:
    """The text as sequences for the rows of one batch: pairs of symbols and those that follow them."""
    length = (len(numbers) - 1) // rows
    starts = range(0, length * rows, length)
    return [(numbers[start : start + length], numbers[start + 1 : start + length + 1]) for start in starts]


def trained_on(text: Text, options: argparse.Namespace) -> train.Trained:
    net = network(len(text.symbols), options)
    return train.fit(
        net,
        columns(text.training, options.batch),
        validation=columns(text.held_out, max(1, options.batch // 8)),
        params=initial(net, options.embedding),
        optimizer=Adam(options.rate),
        schedule=schedules.Cosine(options.epochs),
        epochs=options.epochs,
        batch_size=options.batch,
        tbptt=options.window,
        clip=1.0,
        checkpoint=options.checkpoint,
        resume=options.checkpoint is not None,
        progress=not options.quiet,
        threads=options.threads,
    )


# -- what it has learnt ----------------------------------------------------------------------------------


def report(trained: train.Trained, text: Text) -> None:
    """Bits per character of the held-out text, beside a compressor's."""
    seconds = sum(line.seconds for line in trained.history)
    symbols = len(text.held_out)
    nats = trained.history[-1].validation_loss or float("nan")
    bits = nats / np.log(2) * symbols / len(text.held_out_text)
    packed = len(bz2.compress(text.held_out_text.encode())) * 8 / len(text.held_out_text)
    speed = len(text.training) * len(trained.history) / max(seconds, 1e-9)
    print(f"\n{seconds:.1f} s of training, {speed:,.0f} symbols a second")
    print(f"held-out text: {bits:.3f} bits per character (bz2: {packed:.2f}), perplexity {np.exp(nats):.2f} a symbol")


def write(trained: train.Trained, text: Text, options: argparse.Namespace) -> str:
    """A text that goes on from the prompt."""
    prompt = text.numbers(options.prompt, options.words)
    choice = rnnc.Sample(temperature=options.temperature, top_k=min(40, len(text.symbols)))
    writer = rnnc.Decoder(trained.model.graph(), start=0, end=None, steps=options.length, choice=choice)
    state = None
    if len(prompt) > 1:
        _, state = trained.compile().advance(prompt[:-1, None])
    params = {f"step.{name}": array for name, array in trained.params.items()}
    written = writer.compile(params)(last=prompt[-1:], state=state, seed=options.seed).numbers[:, 0]
    return options.prompt + "".join(text.symbols[i] for i in written)


def draw(histories: dict[str, Sequence[train.Epoch]], path: Path) -> None:
    """The learning curve."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(5, 3.5), layout="constrained")
    for label, history in histories.items():
        epochs = [line.epoch for line in history]
        axes.plot(epochs, [line.loss / np.log(2) for line in history], label=f"{label}, training")
        held_out = [(line.validation_loss or np.nan) / np.log(2) for line in history]
        axes.plot(epochs, held_out, label=f"{label}, held out")
    axes.set(xlabel="epoch", ylabel="bits per symbol")
    axes.legend()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
    print(f"learning curve: {path}")


# -- beside PyTorch --------------------------------------------------------------------------------------


def compare(text: Text, options: argparse.Namespace) -> int:
    """The same updates without dropout, one of each in turn: losses, and the time of each."""
    import torch
    from _lm_torch import TorchLanguageModel

    torch.set_num_threads(options.threads or torch.get_num_threads())
    options.dropout = 0.0
    net = network(len(text.symbols), options)
    params = initial(net, options.embedding)
    step = train.TrainingStep(
        net, "cross_entropy", Adam(options.rate), params=params, clip=1.0, carry=True, threads=options.threads
    )
    peer = TorchLanguageModel(params, options.layers, options.rate, clip=1.0)
    data = train.Sequences(net, step.loss, columns(text.training, options.batch))
    windows = data.windows(data.batch(np.arange(len(data))), options.window)
    losses, seconds = [], []
    state, theirs = None, None
    for batch in list(windows)[: options.updates]:
        start = time.perf_counter()
        outcome, state = step.step(batch, state=state)
        middle = time.perf_counter()
        loss, theirs = peer.step(batch.x, batch.target[..., 0], theirs)
        seconds.append((middle - start, time.perf_counter() - middle))
        losses.append((outcome.loss, loss))
    _side_by_side.report(seconds, losses)
    return 0


# -- command line ----------------------------------------------------------------------------------------


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    about, details = (__doc__ or "").split("\n", 1)
    parser = argparse.ArgumentParser(
        description=about, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("file", nargs="?", type=Path, metavar="FILE", help="a text in UTF-8 (default: Python's help topics)")
    add("--words", action="store_true", help="word by word (default: character by character)")
    add("--min-count", type=int, metavar="N", help="rarer symbols are one (default: 3; with --words 5)")
    add("--embedding", type=int, default=96, metavar="N", help="size of a symbol's vector (default: 96)")
    add("--hidden", type=int, default=256, metavar="N", help="units of a layer (default: 256)")
    add("--layers", type=int, default=2, metavar="N", help="layers of the LSTM (default: 2)")
    add("--dropout", type=float, default=0.1, metavar="P", help="everywhere (default: 0.1)")
    add("--rate", type=float, default=3e-3, metavar="X", help="the learning rate (default: 0.003)")
    add("--epochs", type=int, default=5, metavar="N", help="times over the text (default: 5)")
    add("--batch", type=int, default=32, metavar="N", help="columns of the text (default: 32)")
    add("--window", type=int, default=64, metavar="N", help="steps between updates (default: 64)")
    add("--characters", type=int, metavar="N", help="only the first N characters of the text")
    add("--prompt", default="The ", metavar="TEXT", help="what the written text goes on from (default: 'The ')")
    add("--length", type=int, default=400, metavar="N", help="symbols to write (default: 400)")
    add("--temperature", type=float, default=0.7, metavar="X", help="below 1: likelier symbols (default: 0.7)")
    add("--seed", type=int, default=0, metavar="N", help="of what is written (default: 0)")
    add("--picture", type=Path, default=Path("language_model.png"), metavar="FILE", help="the learning curve")
    add("--no-picture", dest="picture", action="store_const", const=None, help="draw nothing")
    add("--save", type=Path, metavar="FILE", help="write the model to a file, for rnnc.load")
    add("--checkpoint", type=Path, metavar="FILE", help="keep the state of the training here, and go on from it")
    add("--compare-torch", action="store_true", help="the same updates in PyTorch, too")
    add("--updates", type=int, default=60, metavar="N", help="of --compare-torch (default: 60)")
    add("--threads", type=int, metavar="N", help="default: all cores")
    add("--quiet", action="store_true", help="no progress bars")
    options = parser.parse_args(arguments)
    if not options.prompt:
        parser.error("--prompt: expected at least one character")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; 0, or 2 if the text or a package is not there."""
    options = parse(arguments)
    try:
        whole = options.file.read_text(encoding="utf-8") if options.file else help_topics()
        min_count = options.min_count or (5 if options.words else 3)
        text = Text.of(whole[: options.characters], options.words, min_count)
        sizes = f"{len(text.training):,} + {len(text.held_out):,}"
        print(f"{sizes} {'words' if options.words else 'characters'}, {len(text.symbols)} different ones")
        if options.compare_torch:
            return compare(text, options)
        trained = trained_on(text, options)
        report(trained, text)
        if options.picture is not None:
            draw({"LSTM": trained.history}, options.picture)
        if options.save is not None:
            trained.save(options.save)
        print(f"\n{write(trained, text, options)}")
        return 0
    except (OSError, UnicodeError, rnnc.RnncError, ImportError) as error:
        print(f"language_model: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
