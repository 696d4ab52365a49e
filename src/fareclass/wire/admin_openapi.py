"""The control plane's OpenAPI document, made of its table of operations and the types it reads and writes."""

import re
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import msgspec

from fareclass import __version__
from fareclass.wire.admin_types import Error

_PART = re.compile(r"\{(\w+)(?::path)?\}")
_SCHEMAS = "#/components/schemas/{name}"


class Described(Protocol):
    """What the document needs to know of an operation."""

    @property
    def method(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def summary(self) -> str: ...
    @property
    def result(self) -> type: ...
    @property
    def body(self) -> type | None: ...
    @property
    def query(self) -> type: ...
    @property
    def many(self) -> bool: ...
    @property
    def status(self) -> int: ...


def document(operations: Sequence[Described], prefix: str) -> dict[str, Any]:
    """OpenAPI 3.1 of these operations."""
    types = list(dict.fromkeys(kind for operation in operations for kind in _types(operation)))
    schemas, components = msgspec.json.schema_components([*types, Error], ref_template=_SCHEMAS)
    by_type = dict(zip(types, schemas, strict=False))
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        path = prefix + _PART.sub(r"{\1}", operation.path)
        paths.setdefault(path, {})[operation.method.lower()] = _operation(operation, by_type, components)
    used = {
        name: schema for name, schema in components.items() if name not in {kind.query.__name__ for kind in operations}
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "Fareclass control plane", "version": __version__},
        "paths": paths,
        "components": {
            "schemas": used,
            "securitySchemes": {"admin": {"type": "http", "scheme": "bearer", "description": "the admin key"}},
        },
        "security": [{"admin": []}],
    }


def _types(operation: Described) -> Iterable[type]:
    yield operation.result
    yield operation.query
    if operation.body is not None:
        yield operation.body


def _operation(operation: Described, by_type: dict[type, Any], components: dict[str, Any]) -> dict[str, Any]:
    described: dict[str, Any] = {
        "summary": operation.summary,
        "operationId": f"{operation.method.lower()}{_PART.sub('', operation.path).replace('//', '/').replace('/', '_')}"
        + "".join(f"_by_{name}" for name in _PART.findall(operation.path)),
        "parameters": [*_path_parameters(operation.path), *_query_parameters(components[operation.query.__name__])],
        "responses": {
            str(operation.status): _content("done", _result(operation, by_type)),
            "default": _content("refused", {"$ref": _SCHEMAS.format(name=Error.__name__)}),
        },
    }
    if "format" in components[operation.query.__name__].get("properties", ()):
        described["responses"][str(operation.status)]["content"]["text/csv"] = {"schema": {"type": "string"}}
    if operation.body is not None:
        described["requestBody"] = {"required": True, "content": _json(by_type[operation.body])}
    return described


def _result(operation: Described, by_type: dict[type, Any]) -> dict[str, Any]:
    one: dict[str, Any] = by_type[operation.result]
    if not operation.many:
        return one
    return {
        "type": "object",
        "properties": {"data": {"type": "array", "items": one}, "next": {"type": ["string", "null"]}},
        "required": ["data", "next"],
    }


def _path_parameters(path: str) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in _PART.findall(path)
    ]


def _query_parameters(schema: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "query", "required": name in schema.get("required", ()), "schema": kind}
        for name, kind in schema["properties"].items()
    ]


def _content(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": _json(schema)}


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}
