"""Bytes of a caller to a JSON object, refusing whatever two parsers could understand differently (section 11)."""

import json
from collections.abc import Sequence
from typing import Any, NoReturn

import msgspec

from fareclass.core.limits import JSON_DEPTH
from fareclass.core.outcomes import Outcome, Refusal

_TOO_DEEP = f"nested deeper than {JSON_DEPTH} levels"


def decode_object(raw: bytes) -> dict[str, Any]:
    """The JSON object in a request body.

    Raises:
        Refusal: `invalid`, for a body that is empty, not UTF-8, not JSON, too deep, with a number
            out of range, with a key twice in one object, or that is no object.
    """
    value = _decode(raw)
    if type(value) is not dict:
        _refuse("The request body must be a JSON object.")
    if raw.count(b"{") + raw.count(b"[") > JSON_DEPTH:
        _refuse_deep(value)
    if msgspec.json.encode(value) != raw:  # equal means canonical, so no key was there twice
        _refuse_duplicates(raw)
    return value


def _decode(raw: bytes) -> Any:
    if not raw:
        _refuse("The request body is empty; send a JSON object.")
    try:
        return msgspec.json.decode(raw)
    except UnicodeDecodeError:
        _refuse("The request body is not valid UTF-8.")
    except RecursionError:
        _refuse(f"The request body is {_TOO_DEEP}.")
    except msgspec.ValidationError as error:
        _refuse(f"The request body has a number that is out of range: {str(error).split(' - at')[0]}.")
    except msgspec.DecodeError as error:
        _refuse(f"The request body is not valid JSON: {error}.")


def _refuse_deep(value: dict[str, Any]) -> None:
    for name, field in value.items():
        if _deeper(field, JSON_DEPTH - 1):
            shown = name[:64]
            raise Refusal(Outcome.INVALID, f"`{shown}` is {_TOO_DEEP} of JSON.", param=shown)


def _deeper(value: object, levels: int) -> bool:
    """Whether a value nests more than so many levels; walks breadth first, so it can't overflow the stack."""
    layer: Sequence[Any] = [value] if isinstance(value, dict | list) else ()
    for _ in range(levels):
        if not layer:
            return False
        layer = [
            child
            for node in layer
            for child in (node.values() if type(node) is dict else node)
            if type(child) is dict or type(child) is list
        ]
    return bool(layer)


def _refuse_duplicates(raw: bytes) -> None:
    json.loads(raw.decode(), object_pairs_hook=_unique, parse_int=str, parse_float=str)


def _unique(pairs: list[tuple[str, Any]]) -> None:
    seen: set[str] = set()
    for name, _ in pairs:
        if name in seen:
            shown = name[:64]
            raise Refusal(Outcome.INVALID, f"The key `{shown}` is there twice in one JSON object.", param=shown)
        seen.add(name)


def _refuse(message: str) -> NoReturn:
    raise Refusal(Outcome.INVALID, message) from None
