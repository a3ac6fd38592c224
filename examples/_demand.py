"""Hourly demand of many sites, made on the spot: seasons, weather, promotions, noise that grows with demand, gaps.

What a forecaster meets: some of what drives demand is known ahead (the calendar, promotions, the weather forecast),
sites differ for good (their region and size), and meters fail now and then.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

HOURS, WEEK = 24, 168
REGIONS = 3


@dataclass(frozen=True)
class Demand:
    """values: (sites, hours), NaN where the meter failed. ahead: (sites, hours, 6), what is known ahead of time.
    sites: (sites, 4), what never changes: the region, one-hot, and the logarithm of the size. cuts: the hours at which
    training and validation end.
    """

    values: Any
    ahead: Any
    sites: Any
    cuts: tuple[int, int]

    @property
    def scale(self) -> Any:
        """The mean demand of each site in the training hours, (sites, 1)."""
        return np.nanmean(self.values[:, : self.cuts[0]], axis=1, keepdims=True)


def made_up(sites: int, weeks: int, seed: int = 0) -> Demand:
    """Three quarters of the weeks to train on, an eighth to watch the training, an eighth to judge it."""
    rng = np.random.default_rng(seed)
    hours = np.arange(weeks * WEEK)
    of_day, of_week = hours % HOURS, hours % WEEK // HOURS
    region = rng.integers(0, REGIONS, sites)
    size = np.exp(rng.normal(3, 0.8, (sites, 1)))
    temperature = _temperature(rng, region, hours)
    promotion = _promotions(rng, sites, weeks)
    peak = np.array([9.0, 13.0, 18.0])[region][:, None]
    day = np.exp(-(((of_day - peak + 12) % 24 - 12) ** 2) / 18)
    weekend = np.where(of_week >= 5, np.array([0.5, 0.8, 1.3])[region][:, None], 1.0)
    cooling = 0.03 * np.maximum(temperature - 18, 0) + 0.02 * np.maximum(8 - temperature, 0)
    level = size * (0.4 + day * weekend + cooling + 0.6 * promotion * day)
    drift = np.exp(np.cumsum(rng.normal(0, 0.004, level.shape), axis=1))
    values = level * drift * np.exp(rng.normal(0, 0.06 + 0.1 * day))
    values[_gaps(rng, values.shape)] = np.nan
    angles = 2 * np.pi * np.stack([of_day / HOURS, hours % WEEK / WEEK])
    calendar = np.broadcast_to(np.concatenate([np.sin(angles), np.cos(angles)]).T, (sites, len(hours), 4))
    ahead = np.concatenate([calendar, temperature[..., None] / 20 - 0.5, promotion[..., None]], axis=2)
    fixed = np.concatenate([np.eye(REGIONS)[region], np.log(size) - 3], axis=1)
    cuts = weeks * 6 // 8 * WEEK, weeks * 7 // 8 * WEEK
    return Demand(values.astype(np.float32), ahead.astype(np.float32), fixed.astype(np.float32), cuts)


def _temperature(rng: Any, region: Any, hours: Any) -> Any:
    """A season, a day, and weather that lasts, shared by the sites of a region."""
    weather = np.zeros((REGIONS, len(hours)))
    shocks = rng.normal(0, 0.6, weather.shape)
    for t in range(1, len(hours)):
        weather[:, t] = 0.99 * weather[:, t - 1] + shocks[:, t]
    season = 14 - 9 * np.cos(2 * np.pi * hours / (52 * WEEK)) - 4 * np.cos(2 * np.pi * (hours - 3) / HOURS)
    return (season + weather + np.array([-4, 0, 5])[:, None])[region]


def _promotions(rng: Any, sites: int, weeks: int) -> Any:
    """Whole days, about one in twelve."""
    days = rng.random((sites, weeks * 7)) < 1 / 12
    return np.repeat(days, HOURS, axis=1).astype(float)


def _gaps(rng: Any, shape: tuple[int, int]) -> Any:
    """A meter fails about every three weeks, for up to a day."""
    missing = np.zeros(shape, bool)
    for site, start in np.argwhere(rng.random(shape) < 1 / (3 * WEEK)).tolist():
        missing[site, start : start + rng.integers(1, HOURS)] = True
    return missing
