"""The same request of some 40 tokens in the words of each API, such as a newcomer would send it."""

import json
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple
from urllib.parse import quote

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from fareclass.core.tokens import key_id

_SYSTEM = "You are a helpful assistant that answers in one short sentence."
_USER = "Why do airlines sell seats of one plane at several prices? Answer briefly."
_CHAT = [{"role": "system", "content": _SYSTEM}, {"role": "user", "content": _USER}]


class Dialect(NamedTuple):
    """Where a call goes, what it says, and what marks one token of its stream. `{}` in a path is the model."""

    path: str
    stream_path: str
    body: Callable[[str, int, bool], dict[str, Any]]
    mark: bytes
    signed: bool = False


def _openai(model: str, max_tokens: int, stream: bool) -> dict[str, Any]:
    body: dict[str, Any] = {"model": model, "messages": _CHAT, "max_tokens": max_tokens}
    return body | {"stream": True, "stream_options": {"include_usage": True}} if stream else body


def _responses(model: str, max_tokens: int, stream: bool) -> dict[str, Any]:
    body = {"model": model, "instructions": _SYSTEM, "input": _USER, "max_output_tokens": max_tokens, "store": False}
    return body | {"stream": True} if stream else body


def _messages(max_tokens: int) -> dict[str, Any]:
    return {"system": _SYSTEM, "messages": [{"role": "user", "content": _USER}], "max_tokens": max_tokens}


def _anthropic(model: str, max_tokens: int, stream: bool) -> dict[str, Any]:
    body = {"model": model, **_messages(max_tokens)}
    return body | {"stream": True} if stream else body


def _converse(_model: str, max_tokens: int, _stream: bool) -> dict[str, Any]:
    asked = [{"role": "user", "content": [{"text": _USER}]}]
    return {"system": [{"text": _SYSTEM}], "messages": asked, "inferenceConfig": {"maxTokens": max_tokens}}


def _invoke(_model: str, max_tokens: int, _stream: bool) -> dict[str, Any]:
    return {"anthropic_version": "bedrock-2023-05-31", **_messages(max_tokens)}


_CONVERSE = ("/model/{}/converse", "/model/{}/converse-stream", _converse, b"contentBlockDelta")
DIALECTS: Mapping[str, Dialect] = MappingProxyType(
    {
        "chat completions": Dialect("/v1/chat/completions", "/v1/chat/completions", _openai, b"data: "),
        "responses": Dialect("/v1/responses", "/v1/responses", _responses, b"event: response.output_text.delta"),
        "messages": Dialect("/v1/messages", "/v1/messages", _anthropic, b"event: content_block_delta"),
        "converse": Dialect(*_CONVERSE),
        "converse, SigV4": Dialect(*_CONVERSE, signed=True),
        "invoke": Dialect("/model/{}/invoke", "/model/{}/invoke-with-response-stream", _invoke, b":event-type"),
    }
)


def request_bytes(name: str, port: int, key: str, model: str, *, stream: bool, max_tokens: int) -> bytes:
    """One whole HTTP request; a signed one may be sent again for five minutes."""
    dialect = DIALECTS[name]
    path = (dialect.stream_path if stream else dialect.path).format(quote(model, safe=""))
    data = json.dumps(dialect.body(model, max_tokens, stream), separators=(",", ":")).encode()  # as the SDKs write it
    headers = {"Content-Type": "application/json"}
    if dialect.signed:
        headers = _signed(f"http://127.0.0.1:{port}{path}", data, headers, key)
    else:
        headers["Authorization"] = f"Bearer {key}"
    lines = [f"POST {path} HTTP/1.1", f"Host: 127.0.0.1:{port}", f"Content-Length: {len(data)}"]
    lines += [f"{field}: {value}" for field, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + data


def _signed(url: str, data: bytes, headers: dict[str, str], key: str) -> dict[str, str]:
    """As boto3 does: the id of a key is its access key id, the whole key the secret."""
    access_key_id = key_id(key.encode())
    assert access_key_id is not None, "a key holds its own id"
    request = AWSRequest("POST", url, headers, data)
    SigV4Auth(Credentials(access_key_id, key), "bedrock", "us-east-1").add_auth(request)
    return dict(request.headers.items())
