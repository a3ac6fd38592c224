"""Training: `fit`, and its parts, for training loops of your own.

    trained = rnnc.train.fit(model, data, loss="cross_entropy", optimizer=rnnc.optimizers.Adam(1e-3), epochs=10,
                             batch_size=32, validation=held_out, checkpoint="run.safetensors")
    scores = trained.compile()(x, lengths=lengths)

`pip install 'rnnc[train]'` installs tqdm (progress bars).
"""

from rnnc.extras import MissingExtra
from rnnc.train.batch import Batch
from rnnc.train.callbacks import CSV, Callback, TensorBoard, Training
from rnnc.train.checkpoint import load_parameters, save_parameters
from rnnc.train.data import Sequences, batches
from rnnc.train.evaluation import Evaluation
from rnnc.train.groups import Group
from rnnc.train.loop import fit
from rnnc.train.metrics import Metric
from rnnc.train.record import Epoch
from rnnc.train.result import Trained
from rnnc.train.step import TrainingStep
from rnnc.train.validation import right

__all__ = [
    "CSV",
    "Batch",
    "Callback",
    "Epoch",
    "Evaluation",
    "Group",
    "Metric",
    "MissingExtra",
    "Sequences",
    "TensorBoard",
    "Trained",
    "Training",
    "TrainingStep",
    "batches",
    "fit",
    "load_parameters",
    "right",
    "save_parameters",
]
