"""Asking a server's tokenizer, which no two kinds of servers do alike."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from fareclass.engine.base import EngineFailed
from fareclass.engine.upstream import CONTINUES, Flavour

Look = Callable[[str, str, Mapping[str, Any]], Awaitable[tuple[int, Any]]]
"""Method, path and body of a small question; status and decoded answer."""


async def count_text(look: Look, flavour: str, model: str, text: str) -> int | None:
    """Tokens of a text; None where there is no tokenizer or it fails."""
    llama = flavour == Flavour.LLAMA
    return await _count(look, {"content": text} if llama else {"model": model, "prompt": text})


async def count_chat(look: Look, flavour: str, model: str, body: Mapping[str, Any]) -> int | None:
    """Tokens of a chat as the model reads it, with all that its template adds; None where that can't be asked."""
    asked = {name: body[name] for name in ("messages", "tools") if body.get(name)}
    if flavour == Flavour.VLLM:
        begun = {CONTINUES: True, "add_generation_prompt": False} if body.get(CONTINUES) else {}
        return await _count(look, {"model": model, **asked, **begun})
    if flavour != Flavour.LLAMA:
        return None
    try:
        status, answer = await look("POST", "/apply-template", asked)
    except EngineFailed:
        return None
    prompt = answer.get("prompt") if status == 200 and isinstance(answer, dict) else None
    if not isinstance(prompt, str):
        return None
    return await _count(look, {"content": prompt, "add_special": True, "parse_special": True})


async def _count(look: Look, asked: Mapping[str, Any]) -> int | None:
    try:
        status, answer = await look("POST", "/tokenize", asked)
    except EngineFailed:
        return None
    if status != 200 or not isinstance(answer, dict):
        return None
    count, tokens = answer.get("count"), answer.get("tokens")
    return count if isinstance(count, int) else len(tokens) if isinstance(tokens, list) else None
