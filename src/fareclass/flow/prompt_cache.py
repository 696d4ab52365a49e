"""Prompt caching on a request's way: what is known of its prompt at admission, at its start, and at its end."""

import hmac
from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec
from sqlalchemy import Connection

from fareclass.core.field_names import API, OWNED
from fareclass.core.limits import CACHE_LEAST_BYTES
from fareclass.core.prefix import Prefix
from fareclass.core.request import Request
from fareclass.core.snapshot import Model
from fareclass.core.usage import Usage
from fareclass.engine.base import Traits
from fareclass.flow.clock import now_us
from fareclass.policy.caching import Entry, Index, Links, read_links, shown, split
from fareclass.store.cache_entries import CacheRow, list_cache_entries, put_cache_entries

_TEMPLATE: Final = frozenset(
    [
        "function_call",
        "functions",
        "modalities",
        "parallel_tool_calls",
        "reasoning_effort",
        "response_format",
        "suffix",
        "tool_choice",
        "verbosity",
        "web_search_options",
    ]
)
"""Fields beside tools and messages that a model's template may write into the prompt; so may any that is no API's."""
_SETTLED = API | OWNED

_FRESH_US: Final = 1_000
"""A request that waited no longer than this need not look again at its start."""


class PromptCaches:
    """The index of every pool, and the secret that names of prompts are made with."""

    def __init__(self, key: bytes, models: Iterable[str]) -> None:
        self._key = key
        self.indexes = {model: Index() for model in models}
        self._salts: dict[str, str] = {}

    # -- entries outlive a restart (`keeper.Kept`)

    def fetch(self, connection: Connection) -> list[CacheRow]:
        """What was kept."""
        return list_cache_entries(connection, now_us())

    def load(self, state: list[CacheRow]) -> None:
        """Take it in; entries of models that are no more stay where they are until they expire."""
        for row in state:
            if row.model in self.indexes:
                entry = Entry(row.project, row.tokens, row.ttl_s, row.expires_us, row.replica)
                self.indexes[row.model].restore([(bytes.fromhex(row.digest), entry)])

    def dump(self) -> list[CacheRow] | None:
        """Entries that are new or were renewed."""
        at_us = now_us()
        return [
            CacheRow(digest.hex(), entry.project, model, entry.tokens, entry.ttl_s, entry.expires_us, entry.replica)
            for model, index in self.indexes.items()
            for digest, entry in index.take_dirty(at_us).items()
        ] or None

    def save(self, connection: Connection, state: list[CacheRow]) -> None:
        """Write them."""
        put_cache_entries(connection, state, now_us())

    def unsaved(self, state: list[CacheRow]) -> None:
        """They are taken again."""
        for row in state:
            self.indexes[row.model].soil([bytes.fromhex(row.digest)])

    # -- on a request's way

    def salt(self, project: str, model: Model) -> str:
        """What stands for a project in an engine's cache (R31)."""
        if model.shared_cache:
            return ""
        salt = self._salts.get(project)
        if salt is None:
            salt = self._salts[project] = hmac.digest(self._key, f"salt:{project}".encode(), "sha256").hex()
        return salt

    def links(self, request: Request) -> Links | None:
        """A long prompt as `read` wants it, where it is read for several models; a short one is soon read again."""
        return read_links(self._key, request.blocks()) if request.prompt_bytes >= CACHE_LEAST_BYTES else None

    def read(
        self, request: Request, body: Mapping[str, Any], model: Model, links: Links | None = None
    ) -> "CachedPrompt | None":
        """What is known of a request's prompt; None for one too short to matter. `body` is what goes upstream."""
        if request.prompt_bytes < min(CACHE_LEAST_BYTES, model.cache_min_tokens):
            return None
        settings = {name: body[name] for name in body if name in _TEMPLATE or name not in _SETTLED}
        project = request.key.project.id
        seed = msgspec.json.encode((project, model.name, request.path, settings))
        links = links or read_links(self._key, request.blocks())
        if links is None:
            return None
        return CachedPrompt(self.indexes[model.name], links.prefix(self._key, seed), model, project)


class CachedPrompt:
    """One request's prompt and the index of its pool."""

    __slots__ = ("_index", "_look", "_looked_us", "_model", "_project", "prefix")

    def __init__(self, index: Index, prefix: Prefix, model: Model, project: str) -> None:
        self.prefix = prefix
        self._index = index
        self._model = model
        self._project = project
        self._looked_us = now_us()
        self._look = index.look(prefix, self._looked_us)

    @property
    def holders(self) -> Mapping[str, int]:
        """Tokens of it that each replica should have cached (R16)."""
        return self._look.holders

    def known_tokens(self, prompt_tokens: int) -> int:
        """What it will be billed as read, as far as can be told before it ran (R20)."""
        return min(prompt_tokens, self._look.known(None, implicit=self._model.implicit_cache))

    def starts(self, replica: str, prompt_tokens: int) -> None:
        """Its call is sent to this replica: what is known before that is what it may read."""
        at_us = now_us()
        if at_us - self._looked_us > _FRESH_US:
            self._look = self._index.look(self.prefix, at_us)
        self._index.sent(self.prefix, replica, prompt_tokens, at_us)

    def began(self, replica: str, prompt_tokens: int) -> None:
        """Its answer begins on this replica; its tokens are an estimate yet."""
        self._index.began(self._look, replica, self._project, prompt_tokens, self._model.cache_min_tokens, now_us())

    def split(self, prompt: Usage, traits: Traits, replica: str) -> Usage:
        """The prompt's tokens, as the engine counted them, by what they are billed as (R30)."""
        told = prompt.cache_read if traits.tells_cached or prompt.cache_read else None
        caches = traits.caches or self._model.shared_cache or (traits.caches is None and prompt.cache_read > 0)
        if not caches:
            return Usage(input=prompt.prompt)
        return split(
            self._look,
            prompt.prompt,
            told,
            replica,
            self._model.cache_min_tokens,
            implicit=self._model.implicit_cache,
        )

    def ended(self, replica: str, prompt_tokens: int) -> None:
        """The engine has counted the prompt."""
        self._index.ended(self._look, replica, self._project, prompt_tokens, self._model.cache_min_tokens, now_us())

    def shown(self, prompt_tokens: int) -> str:
        """As the ledger keeps it (R35)."""
        return shown(self.prefix, prompt_tokens)
