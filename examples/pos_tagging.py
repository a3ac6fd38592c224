"""Parts of speech: a recurrent network that tags words, trained by rnnc.

    python examples/pos_tagging.py                                  the Turkish treebank of PyPI's turkish-treebanks
    python examples/pos_tagging.py my.conllu more.txt               your own: CoNLL-U, word<tab>TAG, word/TAG
    python examples/pos_tagging.py --cell rnn --optimizer sgd       another network, another optimiser
    python examples/pos_tagging.py --sentence "Burda da öyle mi ?"  tags for a sentence of yours
    python examples/pos_tagging.py --compare-torch                  the same training in PyTorch, side by side
                       (on a machine that is busy otherwise, set OMP_WAIT_POLICY=PASSIVE, or PyTorch's threads spin)

The network: an embedding of words, two bidirectional recurrent layers, a linear layer. A tenth of the sentences is
held out to watch the training, another tenth to judge it. Words that the training sentences do not have often enough
share one vector.

It ends with the accuracy of each tag, a picture of the learning curve, and tags for a sentence.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import _tagged_text as tagged_text
import numpy as np
from _tagged_text import Sentence, TaggedTextError

import rnnc
from rnnc import train
from rnnc.optimizers import SGD, Adam, Optimizer

CELLS = {"rnn": rnnc.RNN, "gru": rnnc.GRU, "lstm": rnnc.LSTM}
OPTIMIZERS: dict[str, tuple[type[Optimizer], float]] = {"sgd": (SGD, 0.1), "adam": (Adam, 1e-3)}
UNKNOWN = 0
Pairs = list[tuple[Any, Any]]


@dataclass(frozen=True)
class Corpus:
    """Sentences as numbers. words, tags: what the numbers stand for; word 0 is any unknown one."""

    words: list[str]
    tags: list[str]
    training: Pairs
    validation: Pairs
    test: Pairs

    @staticmethod
    def of(sentences: Sequence[Sentence], min_count: int) -> Corpus:
        """Splits the sentences 8 : 1 : 1, the same way every time."""
        order = np.random.default_rng(0).permutation(len(sentences)).tolist()
        tenth = max(1, len(sentences) // 10)
        parts = [order[2 * tenth :], order[:tenth], order[tenth : 2 * tenth]]
        if not all(parts):
            raise TaggedTextError(f"{len(sentences)} sentences are too few to train on, and to hold some out")
        counts = Counter(word for i in parts[0] for word, _ in sentences[i])
        words = ["", *sorted(word for word, count in counts.items() if count >= min_count)]
        tags = sorted({tag for sentence in sentences for _, tag in sentence})
        number, class_of = {w: i for i, w in enumerate(words)}, {t: i for i, t in enumerate(tags)}

        def pair(sentence: Sentence) -> tuple[Any, Any]:
            xs = [number.get(word, UNKNOWN) for word, _ in sentence]
            return np.array(xs), np.array([class_of[tag] for _, tag in sentence])

        return Corpus(words, tags, *([pair(sentences[i]) for i in part] for part in parts))

    def numbers(self, words: Sequence[str]) -> Any:
        """Words as the network reads them."""
        known = {word: number for number, word in enumerate(self.words)}
        return np.array([known.get(word, UNKNOWN) for word in words])


def network(corpus: Corpus, options: argparse.Namespace, dropout: float) -> rnnc.Sequential:
    size = options.hidden
    recurrent = CELLS[options.cell](
        options.embedding, size, num_layers=options.layers, dropout=dropout, bidirectional=True
    )
    return rnnc.Sequential(
        rnnc.Embedding(len(corpus.words), options.embedding),
        rnnc.Dropout(dropout),
        recurrent,
        rnnc.Dropout(dropout),
        rnnc.Linear(2 * size, len(corpus.tags)),
    )


def optimizer_of(options: argparse.Namespace) -> Optimizer:
    kind, rate = OPTIMIZERS[options.optimizer]
    return kind(rate if options.rate is None else options.rate)


def batches_of(data: train.Sequences, size: int) -> Iterator[train.Batch]:
    """All sequences in order, for tests."""
    for start in range(0, len(data), size):
        yield data.batch(np.arange(start, min(start + size, len(data))))


# -- one training ----------------------------------------------------------------------------------------


def train_once(corpus: Corpus, options: argparse.Namespace, seed: int) -> train.Trained:
    return train.fit(
        network(corpus, options, options.dropout),
        corpus.training,
        validation=corpus.validation,
        optimizer=optimizer_of(options),
        epochs=options.epochs,
        batch_size=options.batch,
        seed=seed,
        checkpoint=options.checkpoint,
        resume=options.checkpoint is not None,
        progress=not options.quiet,
        backend=options.backend,
        threads=options.threads,
    )


def confusion(trained: train.Trained, corpus: Corpus, batch: int) -> Any:
    """How often words of each tag (rows) got each tag (columns), in the test sentences."""
    network = trained.compile()
    table = np.zeros((len(corpus.tags), len(corpus.tags)), np.int64)
    for start in range(0, len(corpus.test), batch):
        xs, classes = zip(*corpus.test[start : start + batch], strict=True)
        lengths = np.array([len(x) for x in xs])
        padded = np.zeros((lengths.max(), len(xs)), np.int64)
        for row, x in enumerate(xs):
            padded[: len(x), row] = x
        found = network(padded, lengths=lengths).argmax(-1)
        for row, right in enumerate(classes):
            np.add.at(table, (right, found[: len(right), row]), 1)
    return table


def show_tags(table: Any, tags: Sequence[str]) -> None:
    print("\ntest sentences, by tag     words   accuracy   most often taken for")
    for i in np.argsort(-table.sum(1)).tolist():
        words = int(table[i].sum())
        if not words:
            continue
        wrong = table[i].copy()
        wrong[i] = 0
        mistake = f"{tags[int(wrong.argmax())]} ({wrong.max() / words:.0%})" if wrong.any() else ""
        print(f"  {tags[i]:22}{words:8}{table[i, i] / words:11.3f}   {mistake}")
    print(f"  {'all':22}{table.sum():8}{np.trace(table) / table.sum():11.4f}")


def draw(histories: Sequence[Sequence[train.Epoch]], path: Path, title: str) -> None:
    """The learning curve: loss and accuracy of each epoch; a line for each seed."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    for number, history in enumerate(histories):
        epochs = [line.epoch for line in history]
        label = {} if number else {"label": "training"}
        left.plot(epochs, [line.loss for line in history], color="tab:blue", **label)
        label = {} if number else {"label": "held out"}
        left.plot(epochs, [line.validation_loss for line in history], color="tab:orange", **label)
        right.plot(epochs, [line.accuracy for line in history], color="tab:orange")
    left.set(xlabel="epoch", ylabel="loss", title=title)
    left.legend()
    right.set(xlabel="epoch", ylabel="accuracy, held out")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
    print(f"\nlearning curve: {path}")


def tag_sentence(trained: train.Trained, corpus: Corpus, words: Sequence[str]) -> list[str]:
    """A tag for each word."""
    found = trained.compile()(corpus.numbers(words)[:, None]).argmax(-1)[:, 0]
    return [corpus.tags[i] for i in found]


def tag_sentences(trained: train.Trained, corpus: Corpus, sentence: str | None) -> None:
    """Tags the sentence given, or those that are typed, until an empty line."""
    if sentence is not None:
        print_tagged(sentence.split(), tag_sentence(trained, corpus, sentence.split()))
    elif sys.stdin.isatty():
        print("\ntype a sentence, words and punctuation apart by blanks (empty: end)")
        for line in iter(lambda: sys.stdin.readline().strip(), ""):
            print_tagged(line.split(), tag_sentence(trained, corpus, line.split()))


def print_tagged(words: Sequence[str], tags: Sequence[str]) -> None:
    print("\n  " + "  ".join(f"{word}/{tag}" for word, tag in zip(words, tags, strict=True)))


def run(corpus: Corpus, options: argparse.Namespace) -> int:
    runs = []
    for seed in options.seeds:
        trained = train_once(corpus, options, seed)
        table = confusion(trained, corpus, options.batch)
        seconds = sum(line.seconds for line in trained.history)
        accuracy = float(np.trace(table) / table.sum())
        print(f"seed {seed}: test accuracy {accuracy:.4f}, {seconds:.1f} s of training")
        runs.append((trained, table, accuracy))
    if len(runs) > 1:
        accuracies = [accuracy for _, _, accuracy in runs]
        print(f"{len(runs)} seeds: test accuracy {np.mean(accuracies):.4f} +- {np.std(accuracies, ddof=1):.4f}")
    trained, table, _ = runs[0]
    show_tags(table, corpus.tags)
    if options.picture is not None:
        draw([t.history for t, _, _ in runs], options.picture, f"{options.cell}, {options.optimizer}")
    tag_sentences(trained, corpus, options.sentence)
    return 0


# -- beside PyTorch --------------------------------------------------------------------------------------


def compare(corpus: Corpus, options: argparse.Namespace) -> int:
    """Without dropout: losses step by step, and the time of each. With it: accuracies over the seeds."""
    import torch
    from _pos_torch import TorchTagger

    torch.set_num_threads(options.threads or torch.get_num_threads())
    print(f"PyTorch {torch.__version__}, {torch.get_num_threads()} threads; the same data, batches and initial weights")
    losses, seconds, _ = side_by_side(corpus, options, options.seeds[0], 0.0, TorchTagger)
    show_losses(losses)
    print(f"training, no dropout: {times(seconds)}")
    for seed in options.seeds:
        torch.manual_seed(seed)
        _, seconds, right = side_by_side(corpus, options, seed, options.dropout, TorchTagger)
        accuracies = ", ".join(f"{name} {value:.4f}" for name, value in right.items())
        print(f"dropout {options.dropout}, seed {seed}: test accuracy {accuracies}; {times(seconds)}")
    return 0


def side_by_side(
    corpus: Corpus, options: argparse.Namespace, seed: int, dropout: float, peer_class: Any
) -> tuple[Any, Any, dict[str, float]]:
    """Trains both, an epoch of one after an epoch of the other.

    Returns losses and seconds of each update, (updates, 2), rnnc first, and test accuracies.
    """
    model = network(corpus, options, dropout)
    optimizer = optimizer_of(options)
    step = train.TrainingStep(
        model, "cross_entropy", optimizer, seed=seed, backend=options.backend, threads=options.threads
    )
    data, test = (train.Sequences(model, step.loss, pairs) for pairs in (corpus.training, corpus.test))
    peer = peer_class(model, step.params, optimizer)
    contestants = {"rnnc": lambda batch: step.step(batch)[0].loss, "torch": peer.step}
    losses: dict[str, list[float]] = {name: [] for name in contestants}
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for epoch in range(options.epochs):
        order = train.batches(data.lengths, options.batch, seed, epoch)
        for name, update in contestants.items():
            for rows in order:
                start = time.perf_counter()
                losses[name].append(update(data.batch(rows)))
                seconds[name].append(time.perf_counter() - start)
    evaluation = train.Evaluation(model, step.loss, backend=options.backend, threads=options.threads)
    right = {"rnnc": 0, "torch": 0}
    for batch in batches_of(test, options.batch):
        right["rnnc"] += train.right(evaluation(step.params, batch)[1], batch)
        right["torch"] += peer.right(batch)
    words = int(test.lengths.sum())
    columns = (np.array(list(rows.values())).T for rows in (losses, seconds))
    return (*columns, {name: count / words for name, count in right.items()})


def times(seconds: Any) -> str:
    """Sums, and the median over updates of the quotient, which a machine that others use disturbs less."""
    ours, theirs = seconds.sum(0)
    middle = float(np.median(seconds[:, 1] / seconds[:, 0]))
    return f"rnnc {ours:.2f} s, torch {theirs:.2f} s: {theirs / ours:.2f} x; median of the updates {middle:.2f} x"


def show_losses(losses: Any) -> None:
    print("\nlosses without dropout      rnnc        torch       difference")
    shown = sorted({0, 1, 2, 4, 9, 19, 49, 99, len(losses) // 2, len(losses) - 1} & set(range(len(losses))))
    for i in shown:
        ours, theirs = losses[i]
        print(f"  update {i + 1:6}        {ours:10.6f}  {theirs:10.6f}     {abs(ours - theirs):.1e}")


# -- command line ----------------------------------------------------------------------------------------


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    about, details = (__doc__ or "").split("\n", 1)
    parser = argparse.ArgumentParser(
        description=about, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("files", nargs="*", type=Path, metavar="FILE", help="tagged text (default: turkish-treebanks from PyPI)")
    add("--cell", choices=CELLS, default="lstm", help="the recurrent cell (default: lstm)")
    add("--optimizer", choices=OPTIMIZERS, default="adam", help="sgd (rate 0.1) or adam (rate 0.001, default)")
    add("--rate", type=float, metavar="X", help="another learning rate")
    add("--epochs", type=int, default=10, metavar="N", help="times over the sentences (default: 10)")
    add("--seeds", type=int, nargs="+", default=[0], metavar="N", help="one training for each (default: 0)")
    add("--embedding", type=int, default=128, metavar="N", help="size of a word's vector (default: 128)")
    add("--hidden", type=int, default=128, metavar="N", help="hidden size of a direction (default: 128)")
    add("--layers", type=int, default=2, metavar="N", help="recurrent layers (default: 2)")
    add("--batch", type=int, default=32, metavar="N", help="sentences in a batch (default: 32)")
    add("--dropout", type=float, default=0.2, metavar="P", help="between all layers (default: 0.2)")
    add("--min-count", type=int, default=2, metavar="N", help="rarer words are unknown ones (default: 2)")
    add("--sentence", metavar="TEXT", help="tag this one (default: ask for sentences, on a terminal)")
    add("--picture", type=Path, default=Path("pos_tagging.png"), metavar="FILE", help="the learning curve")
    add("--no-picture", dest="picture", action="store_const", const=None, help="draw nothing")
    add("--checkpoint", type=Path, metavar="FILE", help="keep the state of the training here, and go on from it")
    add("--compare-torch", action="store_true", help="train the same network in PyTorch, too, and compare")
    add("--data-folder", type=Path, metavar="FOLDER", help="where the treebank is kept (default: rnnc's cache folder)")
    add("--sentences", type=int, metavar="N", help="only the first N sentences")
    add("--backend", default="llvm", help="the backend of rnnc: llvm (default) or reference")
    add("--threads", type=int, metavar="N", help="default: all cores")
    add("--quiet", action="store_true", help="no progress bars")
    options = parser.parse_args(arguments)
    if options.checkpoint is not None and len(options.seeds) > 1:
        parser.error("--checkpoint keeps one training: give one of --seeds")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; 0, or 2 if the data, a package or the backend is not there."""
    options = parse(arguments)
    try:
        sentences = tagged_text.read(options.files) if options.files else tagged_text.treebank(options.data_folder)
        corpus = Corpus.of(sentences[: options.sentences], options.min_count)
        sizes = " + ".join(str(len(part)) for part in (corpus.training, corpus.validation, corpus.test))
        print(f"{sizes} sentences, {len(corpus.words)} words, {len(corpus.tags)} tags")
        return compare(corpus, options) if options.compare_torch else run(corpus, options)
    except (TaggedTextError, rnnc.RnncError, ImportError) as error:
        print(f"pos_tagging: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
