"""Prompt caching: whose beginnings of prompts are cached, where, and what of a prompt is billed as what (R16, R28-R32)."""

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Final, NamedTuple

import msgspec

from fareclass.core.limits import CACHE_BLOCKS, CACHE_DIGESTS, CACHE_ENTRIES, CACHE_HOLDERS, CACHE_LOOK_BACK
from fareclass.core.prefix import ONE_HOUR_S, Block, Prefix
from fareclass.core.usage import Usage

_FIRST_KEPT: Final = 32
_SHOWN: Final = 8
_SHOWN_HEX: Final = 12
_US: Final = 1_000_000
DIGEST_BYTES: Final = 16


class Links(NamedTuple):
    """A prompt read once, whatever model it is for: a digest for each of its beginnings, and what else a `Prefix` holds."""

    digests: Sequence[bytes]
    ends: tuple[int, ...]
    points: tuple[tuple[int, int], ...]

    def prefix(self, key: bytes, seed: bytes) -> Prefix:
        """The prompt with what else makes it, in `seed`: model, project, settings of the template."""
        begin = blake2b(seed, key=key, digest_size=DIGEST_BYTES).digest()
        digests = (blake2b(begin + link, key=key, digest_size=DIGEST_BYTES).digest() for link in self.digests)
        return Prefix(tuple(digests), self.ends, self.points)


def read_links(key: bytes, blocks: Iterable[Block]) -> Links | None:
    """The digests of a prompt's beginnings; None for one without a block.

    Without `key` nobody can tell from a digest what was asked, by trying what it may have been (R51).
    """
    digest = b""
    digests, ends, points, end = [], [], [], 0
    for data, size, ttl_s in blocks:
        digest = blake2b(digest + data, key=key, digest_size=DIGEST_BYTES).digest()
        digests.append(digest)
        end += size
        ends.append(end)
        if ttl_s:
            points.append((len(ends) - 1, ttl_s))
    return Links(digests, tuple(ends), tuple(points)) if end else None


def shown(prefix: Prefix, prompt_tokens: int) -> str:
    """The last boundaries as the ledger keeps them: enough to replay what a cache would have done (R35)."""
    first = max(0, len(prefix.ends) - _SHOWN)
    return " ".join(
        f"{prefix.digests[index].hex()[:_SHOWN_HEX]}:{prefix.tokens(index, prompt_tokens)}"
        for index in range(first, len(prefix.ends))
    )


class Entry(msgspec.Struct):
    """A beginning that a caller asked to have cached: from the first token of its writer's answer until it expires."""

    project: str
    tokens: int
    ttl_s: int
    expires_us: int
    replica: str


class _Seen(msgspec.Struct):
    """A beginning of a prompt that ran: its tokens, and the replicas that computed it, with the time of each."""

    tokens: int
    holders: dict[str, int]


class Look(NamedTuple):
    """What the index knows of a prompt.

    `holders` are the tokens of it that each replica should have cached. `reached` names the entry that its cache
    points reach, of so many `tokens`, on that `replica`.
    """

    prefix: Prefix
    holders: Mapping[str, int]
    reached: bytes | None = None
    tokens: int = 0
    replica: str = ""

    def known(self, replica: str | None, *, implicit: bool) -> int:
        """Tokens of the prompt that may be billed as read (R30): those held anywhere, or by this replica."""
        holders = self.holders
        tokens = self.tokens if replica in (None, self.replica) else 0
        if implicit and holders:
            tokens = max(tokens, max(holders.values()) if replica is None else holders.get(replica, 0))
        return tokens


class Index:
    """What is cached of one pool's prompts. Digests name their project, so projects never meet here (R31).

    Bounded: what was used least recently goes first. Times are microseconds since the epoch.
    """

    def __init__(self, entries: int = CACHE_ENTRIES, digests: int = CACHE_DIGESTS) -> None:
        self._most_entries = entries
        self._most_digests = digests
        self._entries: OrderedDict[bytes, Entry] = OrderedDict()
        self._seen: OrderedDict[bytes, _Seen] = OrderedDict()
        self._dirty: set[bytes] = set()
        self._due: dict[int, set[bytes]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def look(self, prefix: Prefix, now_us: int) -> Look:
        """What is known of this prompt now."""
        holders = self._holders(prefix, now_us)
        reached = self._reached(prefix, now_us)
        if reached is None:
            return Look(prefix, holders)
        entry = self._entries[reached]
        return Look(prefix, holders, reached, entry.tokens, entry.replica)

    def sent(self, prefix: Prefix, replica: str, prompt_tokens: int, now_us: int) -> None:
        """The prompt goes to this replica: who comes next with the same beginning is best sent there too (R16).

        `prompt_tokens` may be an estimate; `ended` puts it right.
        """
        for index in _kept(len(prefix.ends)):
            self._see(prefix.digests[index], replica, prefix.tokens(index, prompt_tokens), now_us)

    def began(self, look: Look, replica: str, project: str, prompt_tokens: int, min_tokens: int, now_us: int) -> None:
        """The prompt's answer begins: from now on the entries of its cache points count (R29). A read renews what
        it read (R28).
        """
        if look.reached is not None and look.reached in self._entries:
            self._renew(look.reached, now_us)
        self._write(look.prefix, replica, project, prompt_tokens, min_tokens, now_us, counted=False)

    def ended(self, look: Look, replica: str, project: str, prompt_tokens: int, min_tokens: int, now_us: int) -> None:
        """The engine has counted the prompt."""
        prefix = look.prefix
        self._write(prefix, replica, project, prompt_tokens, min_tokens, now_us, counted=True)
        for index in _kept(len(prefix.ends)):
            seen = self._seen.get(prefix.digests[index])
            if seen is not None:
                seen.tokens = prefix.tokens(index, prompt_tokens)

    # -- what outlives a restart

    def restore(self, rows: Iterable[tuple[bytes, Entry]]) -> None:
        """Take entries in that were kept over a restart."""
        for digest, entry in rows:
            self._put(digest, entry)

    def soil(self, digests: Iterable[bytes]) -> None:
        """These could not be kept: they are to be taken again."""
        self._dirty.update(digests)

    def take_dirty(self, now_us: int) -> dict[bytes, Entry]:
        """Entries that are new or changed since the last call; those that have expired are forgotten here."""
        for second in [second for second in self._due if second < now_us // _US]:
            for digest in self._due.pop(second):
                del self._entries[digest]
        dirty, self._dirty = self._dirty, set()
        return {digest: self._entries[digest] for digest in dirty if digest in self._entries}

    # -- inside

    def _reached(self, prefix: Prefix, now_us: int) -> bytes | None:
        """The longest entry at most `CACHE_LOOK_BACK` blocks back from a cache point, that one included."""
        for point, _ in reversed(prefix.points):
            for index in range(point, max(-1, point - CACHE_LOOK_BACK), -1):
                entry = self._entries.get(prefix.digests[index])
                if entry is not None and entry.expires_us > now_us:
                    return prefix.digests[index]
        return None

    def _holders(self, prefix: Prefix, now_us: int) -> dict[str, int]:
        holders: dict[str, int] = {}
        oldest_us = now_us - ONE_HOUR_S * _US
        digests, seen = prefix.digests, self._seen
        for index in reversed(_kept(len(digests))):
            known = seen.get(digests[index])
            if known is None:
                continue
            for replica, at_us in known.holders.items():
                if at_us > oldest_us and replica not in holders:
                    holders[replica] = known.tokens
        return holders

    def _see(self, digest: bytes, replica: str, tokens: int, now_us: int) -> None:
        seen = self._seen.get(digest)
        if seen is None:
            self._seen[digest] = _Seen(tokens, {replica: now_us})
            if len(self._seen) > self._most_digests:
                self._seen.popitem(last=False)
            return
        self._seen.move_to_end(digest)
        seen.holders[replica] = now_us
        if len(seen.holders) > CACHE_HOLDERS:
            del seen.holders[min(seen.holders, key=seen.holders.__getitem__)]

    def _write(
        self,
        prefix: Prefix,
        replica: str,
        project: str,
        prompt_tokens: int,
        min_tokens: int,
        now_us: int,
        *,
        counted: bool,
    ) -> None:
        """Each cache point's entry: made, or renewed; below the model's minimum there is none (R28).

        An estimate makes one, but changes no tokens of one that is there, nor ends it.
        """
        for index, ttl_s in prefix.points:
            digest, tokens = prefix.digests[index], prefix.tokens(index, prompt_tokens)
            entry = self._entries.get(digest)
            if tokens < min_tokens and (counted or entry is None):
                self._forget(digest)
                continue
            if entry is None:
                entry = Entry(project, tokens, ttl_s, now_us, replica)
                self._put(digest, entry)
            elif counted:
                entry.tokens = tokens
            entry.replica, entry.ttl_s = replica, max(entry.ttl_s, ttl_s)
            self._renew(digest, now_us)

    def _put(self, digest: bytes, entry: Entry) -> None:
        self._forget(digest)
        if len(self._entries) >= self._most_entries:
            self._forget(next(iter(self._entries)))
        self._entries[digest] = entry
        self._due.setdefault(entry.expires_us // _US, set()).add(digest)

    def _renew(self, digest: bytes, now_us: int) -> None:
        entry = self._entries[digest]
        self._due[entry.expires_us // _US].discard(digest)
        entry.expires_us = max(entry.expires_us, now_us + entry.ttl_s * _US)
        self._due.setdefault(entry.expires_us // _US, set()).add(digest)
        self._entries.move_to_end(digest)
        self._dirty.add(digest)

    def _forget(self, digest: bytes) -> None:
        entry = self._entries.pop(digest, None)
        if entry is not None:
            self._due[entry.expires_us // _US].discard(digest)


def split(look: Look, prompt_tokens: int, told: int | None, replica: str, min_tokens: int, *, implicit: bool) -> Usage:
    """A prompt's tokens by what they are billed as (R30); the kinds always add up to `prompt_tokens`.

    `told` is what the engine says that it reused, None where it says nothing. Written is what stands before the
    last cache point and was not read, at the TTL of the first point behind it.
    """
    prefix = look.prefix
    known = look.known(None if told is not None else replica, implicit=implicit)
    read = min(known if told is None else min(told, known), prompt_tokens)
    done, written = read, {ttl_s: 0 for _, ttl_s in prefix.points}
    for index, ttl_s in prefix.points:
        tokens = prefix.tokens(index, prompt_tokens)
        if tokens >= min_tokens and tokens > done:
            written[ttl_s] += tokens - done
            done = tokens
    one_hour = written.get(ONE_HOUR_S, 0)
    five_minutes = sum(written.values()) - one_hour
    return Usage(input=prompt_tokens - done, cache_write_5m=five_minutes, cache_write_1h=one_hour, cache_read=read)


def _kept(blocks: int) -> Sequence[int]:
    """The blocks whose ends are remembered: all of a usual prompt, of a very long one the first and the last."""
    if blocks <= CACHE_BLOCKS:
        return range(blocks)
    return [*range(_FIRST_KEPT), *range(blocks - CACHE_BLOCKS + _FIRST_KEPT, blocks)]
