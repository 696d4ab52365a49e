"""Prometheus' text form. Written here since a page may have 100,000 lines, and a scrape must not hold up requests:
its client library takes six times as long.
"""

from collections.abc import Iterable, Sequence

_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})
Samples = Iterable[tuple[str, float]]
"""Labels, as `labels` gives them, and a value."""


def labels(**words: str) -> str:
    """Labels as they stand in a line."""
    return ",".join([f'{name}="{word.translate(_ESCAPES)}"' for name, word in words.items()])


class Page:
    """One scrape. Every name gets the program's prefix; of counters, `name` is without its `_total`."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def gauge(self, name: str, help_text: str, samples: Samples) -> None:
        self._family(f"fareclass_{name}", "gauge", help_text, samples)

    def counter(self, name: str, help_text: str, samples: Samples) -> None:
        self._family(f"fareclass_{name}_total", "counter", help_text, samples)

    def histogram(
        self, name: str, help_text: str, samples: Iterable[tuple[str, Sequence[tuple[str, int]], float]]
    ) -> None:
        """Each sample: labels, how many were at or below each bound, the sum."""
        name = f"fareclass_{name}"
        self._head(name, "histogram", help_text)
        for words, buckets, total in samples:
            before = f'{name}_bucket{{{words},le="'
            self._lines += [f'{before}{bound}"}} {count}' for bound, count in buckets]
            self._lines += (f"{name}_sum{{{words}}} {total}", f"{name}_count{{{words}}} {buckets[-1][1]}")

    def render(self) -> bytes:
        # A lone surrogate, which no encoding has, can't come from a database, but a page must not fail for one.
        return ("\n".join(self._lines) + "\n").encode(errors="replace")

    def _family(self, name: str, kind: str, help_text: str, samples: Samples) -> None:
        self._head(name, kind, help_text)
        self._lines += [f"{name}{{{words}}} {value}" if words else f"{name} {value}" for words, value in samples]

    def _head(self, name: str, kind: str, help_text: str) -> None:
        self._lines += (f"# HELP {name} {help_text}", f"# TYPE {name} {kind}")
