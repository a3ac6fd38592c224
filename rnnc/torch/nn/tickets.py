"""Tickets: tensors that own what a call keeps for its gradients, so that PyTorch decides how long it is kept.

PyTorch frees the tensors that a graph has saved after `backward`; torch.utils.checkpoint and others put copies in their
place, or make them again. What a call keeps is no tensor. A ticket is one, with no content, whose memory owns it.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import torch

__all__ = ["kept_by", "ticket_for"]


class _Memory(np.ndarray[Any, Any]):
    """The memory of a ticket."""

    kept: Any


_BY_ADDRESS: WeakValueDictionary[int, _Memory] = WeakValueDictionary()


def ticket_for(kept: Any) -> Any:
    """A new ticket: float64 (1,). kept: what it owns, None for nothing."""
    memory = np.zeros(1).view(_Memory)
    ticket = torch.from_numpy(memory)
    if kept is not None:
        memory.kept = kept
        _BY_ADDRESS[ticket.data_ptr()] = memory
    return ticket


def kept_by(ticket: Any) -> Any:
    """What a ticket owns; None of a copy, which owns nothing."""
    memory = _BY_ADDRESS.get(ticket.data_ptr())
    return None if memory is None else memory.kept
