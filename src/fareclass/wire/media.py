"""What the parts of messages point to: data in the request itself, or remote hosts (R47)."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from fareclass.core.limits import PROMPT_PARTS
from fareclass.core.outcomes import Outcome, Refusal

MEDIA_PROMPT_BYTES = 4096
"""What one inline image, sound or file counts as text: about 1,000 tokens, whatever its size in base64."""
_INLINE_CHARS = 1024
"""A longer string of a part that is no text is taken for inline data."""
# Only what every URL parser reads alike: no user, no backslash, no blank, host of plain letters.
_REMOTE = re.compile(r"https?://([a-z0-9](?:[a-z0-9.-]*[a-z0-9])?\.?)(?::[0-9]{1,5})?(?:[/?#][^\s\\]*)?", re.IGNORECASE)


class Media(msgspec.Struct):
    """What was found: remote hosts in order, inline items, and the characters that those take."""

    hosts: dict[str, None] = msgspec.field(default_factory=dict)
    items: int = 0
    inline_chars: int = 0


def scan(messages: Sequence[Mapping[str, Any]]) -> Media:
    """Look through all parts of all messages.

    Raises:
        Refusal: `invalid`, for a URL that is neither `data:` nor plain http(s), and for ids of
            files or sounds that would have to be stored here.
    """
    media = Media()
    parts = len(messages)
    for index, message in enumerate(messages):
        content = message.get("content")
        if type(content) is list:
            parts += len(content)
            if parts > PROMPT_PARTS:
                break
            for place, part in enumerate(content):
                _scan_object(part, f"messages[{index}].content[{place}]", media)
        if message.get("audio") is not None:
            _refuse_stored(f"messages[{index}].audio")
    if parts > PROMPT_PARTS:
        raise Refusal(
            Outcome.INVALID,
            f"`messages` has more than {PROMPT_PARTS} messages and parts; join texts that belong together.",
            param="messages",
        )
    return media


def _scan_object(node: Mapping[str, Any], path: str, media: Media) -> None:
    for key, value in node.items():
        if key != "text" or type(value) is not str:
            _scan_value(key, value, f"{path}.{key}", media)


def _scan_value(key: str, value: object, path: str, media: Media) -> None:
    if isinstance(value, str):
        _scan_string(key, value, path, media)
    elif isinstance(value, dict):
        _scan_object(value, path, media)
    elif isinstance(value, list):
        for place, item in enumerate(value):
            _scan_value(key, item, f"{path}[{place}]", media)


def _scan_string(key: str, value: str, path: str, media: Media) -> None:
    if key == "file_id":
        _refuse_stored(path)
    if value[:5].lower() == "data:":
        _count_inline(value, media)
    elif key == "url" or key.endswith("_url") or "://" in value:
        match = _REMOTE.fullmatch(value)
        if match is None:
            raise Refusal(
                Outcome.INVALID,
                f"`{path}` must be a `data:` URL or a plain http(s) URL without user name or special characters.",
                param=path,
            )
        media.hosts[match[1].lower().rstrip(".")] = None
    elif len(value) > _INLINE_CHARS:
        _count_inline(value, media)


def _count_inline(value: str, media: Media) -> None:
    media.items += 1
    media.inline_chars += len(value)


def _refuse_stored(path: str) -> None:
    raise Refusal(
        Outcome.INVALID,
        f"`{path}` points to a stored file, and this server keeps none; send the data itself in the request.",
        param=path,
    )
