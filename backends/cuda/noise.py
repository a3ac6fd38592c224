"""Masks for dropout and zoneout, drawn on the device."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np

from rnnc.backends.cuda.device import Array, Device, Unit, blocks_for
from rnnc.backends.cuda.elementwise import noise_kernel
from rnnc.backends.noise import LANES, LOW, Where, key, threshold


class CudaNoise:
    """Masks of one dtype; see `rnnc.backends.noise.Noise`. Arrays are the device's."""

    def __init__(self, dtype: str, device: Callable[[], Device]) -> None:
        self._dtype = np.dtype(dtype)
        self._device = device
        self._kernel = noise_kernel(dtype)

    @cached_property
    def _loaded(self) -> tuple[Device, Unit]:
        device = self._device()
        return device, device.load(self._kernel.text, [self._kernel])

    def fill(self, out: Array, where: Where, p: float, low: float, high: float) -> None:
        """See `rnnc.backends.noise.Noise.fill`."""
        device, unit = self._loaded
        steps, rows, units = out.shape
        count = steps * rows * -(-units // LANES)
        if not count:
            return
        place = (where.number, where.step, where.row, where.update, *key(where.seed), threshold(p))
        words = (np.uint32(word & LOW) for word in place)
        sizes = (np.int32(steps), np.int32(rows), np.int32(units))
        grid = (blocks_for(device.chip, count, self._kernel.threads), 1, 1)
        unit.launch(self._kernel, grid, (out, *sizes, *words, self._dtype.type(low), self._dtype.type(high)))
