"""Lengths of time in microseconds, in which every moment is told: since the epoch, in UTC."""

MINUTE_US = 60_000_000
DAY_US = 24 * 60 * MINUTE_US
