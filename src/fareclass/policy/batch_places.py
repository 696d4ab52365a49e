"""Where a project's batches may read and write (R47): names such as `s3://bucket/…`, of which an operator says what they
stand for.
"""

import re
from collections.abc import Iterable
from typing import Final, NamedTuple

import msgspec

from fareclass.core.limits import BATCH_DEPTH, BATCH_URI_CHARS

_BUCKET: Final = re.compile(r"[a-z0-9][-.a-z0-9]{1,61}[a-z0-9]")
_PART: Final = re.compile(r"[-!_*'().a-zA-Z0-9]{1,255}")
_FORM: Final = "must be such as s3://bucket/folder/file.jsonl, of letters, digits and -!_*'(). alone"


class PlaceError(Exception):
    """A name stands for no place that the project may use; the message says why."""


class Uri(NamedTuple):
    """A name in its parts; `folder`: it ends as one, with a slash or with its bucket."""

    bucket: str
    parts: tuple[str, ...]
    folder: bool

    @property
    def text(self) -> str:
        """The name; a folder's ends with a slash."""
        below = "".join(f"/{part}" for part in self.parts)
        return f"s3://{self.bucket}{below}{'/' if self.folder else ''}"


class Root(msgspec.Struct, frozen=True):
    """What begins with `uri` is below this folder of the gateway's machine, or in this object store under its own name."""

    uri: str
    folder: str | None = None
    store: str | None = None


class Spot(NamedTuple):
    """A name that the project may use: the parts below its root, and the root's own."""

    root: Root
    uri: Uri
    below: tuple[str, ...]


def parse_uri(text: str) -> Uri:
    """Only what means the same everywhere: no empty part, none that leads up, nothing that is encoded.

    Raises:
        PlaceError: it is no such name.
    """
    scheme, _, rest = text.partition("://")
    bucket, _, path = rest.partition("/")
    if scheme != "s3" or len(text) > BATCH_URI_CHARS or not _BUCKET.fullmatch(bucket):
        raise PlaceError(_FORM)
    folder = path.endswith("/") or not path
    parts = tuple(path.removesuffix("/").split("/")) if path else ()
    if len(parts) > BATCH_DEPTH or any(not _PART.fullmatch(part) or part.strip(".") == "" for part in parts):
        raise PlaceError(_FORM)
    return Uri(bucket, parts, folder)


def find_spot(text: str, roots: Iterable[Root]) -> Spot:
    """What a name stands for: the longest root that it is below.

    Raises:
        PlaceError: it is no name, or below none of them.
    """
    uri = parse_uri(text)
    found = [root for root in roots if _within(uri, parse_uri(root.uri))]
    if not found:
        raise PlaceError("is not below a place that this project's operator has set for batches")
    root = max(found, key=lambda root: len(root.uri))
    return Spot(root, uri, uri.parts[len(parse_uri(root.uri).parts) :])


def _within(uri: Uri, root: Uri) -> bool:
    return uri.bucket == root.bucket and uri.parts[: len(root.parts)] == root.parts
