"""PyTorch run on a case of the matrix: the second opinion on the standard cells."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from tests.cases import Case, Result


def supports(case: Case) -> bool:
    """PyTorch has only one form of GRU, no empty batches and no rows of length 0 in a packed sequence."""
    lengths = case.row_lengths
    return case.cell != "gru_before" and case.batch != 0 and (lengths is None or bool(lengths.min() > 0))


def module(case: Case, dtype: torch.dtype) -> torch.nn.RNNBase:
    options: dict[str, Any] = {
        "num_layers": case.num_layers,
        "bias": case.bias,
        "batch_first": case.batch_first,
        "bidirectional": case.bidirectional,
        "dtype": dtype,
    }
    family = case.cell.split("_")[0]
    if family == "rnn":
        options["nonlinearity"] = case.cell.removeprefix("rnn_")
    if case.cell == "lstm_projected":
        options["proj_size"] = case.width
    net = {"rnn": torch.nn.RNN, "gru": torch.nn.GRU, "lstm": torch.nn.LSTM}[family]
    made: torch.nn.RNNBase = net(case.input_size, case.hidden_size, **options)
    made.load_state_dict({k: torch.from_numpy(v).to(dtype) for k, v in case.params.items()})
    return made


def run(case: Case, dtype: torch.dtype = torch.float64) -> Result:
    """The case's own numbers, computed by PyTorch in `dtype`."""

    def tensor(array: np.ndarray[Any, Any]) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(dtype)

    state = case.state
    if state is not None:
        state = tuple(map(tensor, state)) if isinstance(state, tuple) else tensor(state)
    x: Any = tensor(case.x)
    with torch.inference_mode():
        if case.row_lengths is not None:
            lengths = torch.from_numpy(case.row_lengths)
            x = pack_padded_sequence(x, lengths, batch_first=case.batch_first, enforce_sorted=False)
        output, last = module(case, dtype)(x, state)
        if case.row_lengths is not None:
            output, _ = pad_packed_sequence(output, batch_first=case.batch_first, total_length=case.steps)
    states = last if isinstance(last, tuple) else (last,)
    return Result(output.numpy(), tuple(s.numpy() for s in states))
