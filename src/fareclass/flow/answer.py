"""One answer, over as many upstream calls as it takes: waiting, pauses, restarts and failovers included."""

import asyncio
import sys
from collections.abc import Mapping
from typing import Any

from fareclass.core.limits import ANSWER_BYTES, SSE_COMMENT_S
from fareclass.core.outcomes import Outcome, Refusal
from fareclass.core.request import Request
from fareclass.core.usage import Usage
from fareclass.engine.answer import Answer, Choice, assemble, clean_cut, read_answer
from fareclass.engine.base import Call, Engine, EngineFailed, EngineRefused, Prompt
from fareclass.flow.answer_usage import prompt_text, wire_usage, with_output, with_usage
from fareclass.flow.clock import now_us
from fareclass.flow.dispatch import Dispatcher
from fareclass.flow.prompt_cache import CachedPrompt
from fareclass.flow.purse import Purse
from fareclass.flow.reply import Reply, Served
from fareclass.flow.seat import Interrupted, Seat
from fareclass.sched.ticket import Ticket

KEPT_BYTES = 1024 * 1024
"""Relayed events kept undecoded; an answer that grows beyond is folded into its text from time to time."""


class Production:
    """Brings one request's answer about, on whatever replicas the scheduler gives it.

    What was relayed is kept as bytes while the answer may yet have to be continued or put
    together, and decoded only then. `made_before` counts the tokens of the calls that were
    paused or lost; `prompt` is the usage of the first call that told any.
    """

    __slots__ = (
        "_again", "_blocks", "_call", "_capped", "_cut", "_dispatcher", "_engine", "_folded", "_keeps", "_kept_bytes",
        "_last_s", "_look_at", "_loop", "_made_before", "_prefilled_on", "_prompt", "_reply", "_request", "_ticket",
        "_unsent", "_upstream", "body", "cached", "first_token_s", "longest_gap_s", "purse", "replica", "salt", "seat",
        "served", "started_s",
    )  # fmt: skip

    def __init__(
        self, dispatcher: Dispatcher, request: Request, body: Mapping[str, Any], ticket: Ticket, reply: Reply
    ) -> None:
        self.seat = Seat(ticket)
        self.served: Served
        self.cached: CachedPrompt | None = None
        self.purse: Purse | None = None
        self.salt = ""
        self.body: bytes | None = None
        self.replica = ""
        self.started_s: float | None = None
        self.first_token_s: float | None = None
        self.longest_gap_s = 0.0
        self._dispatcher = dispatcher
        self._request = request
        self._upstream = body
        self._ticket = ticket
        self._reply = reply
        self._loop = asyncio.get_running_loop()
        self._engine: Engine | None = None
        self._call: Call | None = None
        self._keeps = ticket.streamed and (ticket.continuable or not request.stream)
        self._blocks: list[bytes] = []
        self._kept_bytes = 0
        self._folded: Answer | None = None
        self._prompt: Usage | None = None
        self._made_before = self._again = 0
        self._unsent = b""
        self._last_s = 0.0
        self._look_at = sys.maxsize
        self._prefilled_on = ""
        self._cut = False
        self._capped: int | None = None

    def hold_to(self, purse: Purse) -> None:
        """Let it cost no more than its budgets have: look after its first event, and whenever that is due (R26).

        What does not run streamed can't be looked at on its way, so it is sent with a limit.
        """
        self.purse = purse
        if self._ticket.streamed:
            self._look_at = 1
            self._keeps = self._keeps or self._request.width > 1
        elif purse.cap_tokens is not None and self._request.max_tokens != 0:
            name = "max_completion_tokens" if "max_completion_tokens" in self._upstream else "max_tokens"
            self._capped = max(1, purse.cap_tokens)
            self._upstream = {**self._upstream, name: self._capped}

    async def run(self) -> None:
        """Produce the whole answer; a stream has been relayed when this returns, but for its end.

        Raises:
            Refusal: it can't be produced, or not further.
            ConnectionError: the caller has gone.
        """
        served = self.served
        try:
            while True:
                replica = self.seat.replica or await self._turn()
                berth = self._dispatcher.berths[replica]
                self.replica = served.replica = replica
                if self._engine is not berth.engine:
                    self._leave()
                    self._engine = berth.engine
                if self.started_s is None:
                    self.started_s = self._last_s = self._loop.time()
                    served.queue_ms = max(0, round((self.started_s - self._request.arrived_s) * 1000))
                try:
                    async with self.seat.call(self._may_cut):
                        call = await self._open(berth.engine)
                        try:
                            await (self._stream(call) if self._ticket.streamed else self._take(call))
                        finally:
                            await call.close()
                    return
                except Interrupted:
                    self._interrupted()
                except EngineFailed as error:
                    self._failed(error)
                except EngineRefused as error:
                    raise _refused(error) from None
        finally:
            self._leave()

    def _leave(self) -> None:
        """It does not go on where it was: its engine need keep nothing for that."""
        if self._engine is not None:
            self._engine.forget(self._request.id)

    def release(self, usage: Usage, *, served: bool) -> None:
        """Give the seat and its holds back, the holds corrected to what was used (R20, R25)."""
        self._dispatcher.finish(self.seat, usage, served=served)

    async def _turn(self) -> str:
        """The next replica; a caller whose stream is paused hears a comment now and then (R11)."""
        while self._reply.started and not self.seat.decided:
            try:
                async with asyncio.timeout(SSE_COMMENT_S):
                    await self.seat.turn()
            except TimeoutError:
                await self._reply.comment()
        return await self.seat.turn()

    async def _open(self, engine: Engine) -> Call:
        if self.seat.pause_due:
            raise Interrupted
        if self._unsent:
            await self._relay(self._unsent)
        request, ticket = self._request, self._ticket
        beginning, said, self._again = self._begun(engine)
        prompt = Prompt(
            path=request.path,
            body=self._upstream,
            stream=ticket.streamed,
            rank=ticket.rank,
            beginning=beginning,
            said=said,
            made_tokens=self._made_before - self._again,
            traceparent=request.traceparent,
            id=request.id,
            salt=self.salt,
            prefix=None if self.cached is None else self.cached.prefix,
        )
        if self.cached is not None and self.first_token_s is None:
            self.cached.starts(self.replica, ticket.prompt_tokens)
        self.seat.active_at = self._loop.time()
        self._call = await engine.open(prompt)
        return self._call

    async def _take(self, call: Call) -> None:
        """The answer in one piece."""
        self.body = await call.body()
        self._begun_by_engine()  # at the call's end, which the scheduler hears of next

    def _begun(self, engine: Engine) -> tuple[str, str, int]:
        """The text that this engine is to go on from, white space behind it that it would lose, and the tokens of that."""
        if not self._made_before:
            return "", "", 0
        answer = self._answer()
        text = answer.text
        kept = text.rstrip() if engine.traits.clean_cut_only else text
        return kept, text[len(kept) :], answer.blank_tail if kept != text else 0

    async def _stream(self, call: Call) -> None:
        """Relay the call's events, the first `_again` tokens of which were made before, and count once.

        This loop runs once a token: nothing stands in it that a token doesn't need.
        """
        seat, ticket, brain, relays = self.seat, self._ticket, self._dispatcher.brain, self._request.stream
        reply = self._reply
        clock = self._loop.time
        first = True
        async for block in call:
            now = seat.active_at = clock()
            if now - self._last_s > self.longest_gap_s and self.first_token_s is not None:
                self.longest_gap_s = now - self._last_s
            self._last_s = now
            if first:
                first = False
                self._made_before -= self._again
                self._first_token()
                if relays and self._reply.started:
                    self._reply.continued()
            brain.produced(ticket, block.count(b"\n\n"), now)
            if self._keeps:
                self._keep(block)
            if relays and reply.started:
                self._unsent = block  # as `_relay`, without a coroutine that each token would pay for
                await reply.relay(block)
                self._unsent = b""
            elif relays:
                await self._relay(block)
            if ticket.made_tokens >= self._look_at and not self._paid() and await self._ended_short(block):
                return
            if seat.pause_due:
                self._pause_if_clean()

    def _paid(self) -> bool:
        """Whether what was made is paid for, and something to come; sets when to look again.

        That is half the way to the hold's end: an event may hold more tokens than those before it.
        """
        assert self.purse is not None
        tokens = self.purse.paid_tokens(self.rough_usage(), now_us())
        if tokens is None:
            return False
        events = self._ticket.made_tokens
        self._look_at = events + max(1, tokens * events // max(1, self._made()) // 2)
        return True

    async def _ended_short(self, block: bytes) -> bool:
        """End the answer here, with finish reason `length`; False where it is whole already (R26)."""
        answer = self._answer() if self._keeps else read_answer([block])
        found = [(index, answer.choices.get(index)) for index in range(self._request.width)]
        cut = [index for index, choice in found if choice is None or choice.finish_reason is None]
        if self._request.stream and cut:
            await self._reply.cut(cut)
        for index in cut:
            answer.choices.setdefault(index, Choice()).finish_reason = "length"
        self._look_at = sys.maxsize
        self._cut = bool(cut)
        return self._cut

    def cut_by_budget(self, usage: Usage) -> bool:
        """Whether it would have been longer without a budget, as far as can be told (R26)."""
        return self._cut or (self._capped is not None and usage.output >= self._capped)

    async def _relay(self, block: bytes) -> None:
        """Send to the caller. If a pause interrupts a slow caller's read, the block goes first after the resume."""
        self._unsent = block
        if not self._reply.started:
            self._dispatcher.brain.sent(self._ticket)
            await self._reply.start(self.served)
        await self._reply.relay(block)
        self._unsent = b""

    def _first_token(self) -> None:
        if self.first_token_s is None:
            self._begun_by_engine()
        self._dispatcher.first_token(self.seat)

    def _begun_by_engine(self) -> None:
        """The first token of all: the prompt is in that replica's cache (R29)."""
        self.first_token_s = self._loop.time()
        self._prefilled_on = self.replica
        if self.cached is not None:
            self.cached.began(self.replica, self._ticket.prompt_tokens)

    # -- keeping what a continuation needs

    def _keep(self, block: bytes) -> None:
        self._blocks.append(block)
        self._kept_bytes += len(block)
        if self._kept_bytes > KEPT_BYTES:
            answer = self._answer()
            self._kept_bytes = 0
            if len(answer.text) > ANSWER_BYTES:
                raise EngineFailed("broken", f"the answer is longer than {ANSWER_BYTES} bytes")

    def _answer(self) -> Answer:
        """Everything so far, decoded."""
        self._folded = read_answer(self._blocks, self._folded)
        self._blocks.clear()
        return self._folded

    def _may_cut(self, *, broken: bool = False) -> bool:
        """Whether the answer may be ended where it stands (R11).

        White space that an engine would lose is no hindrance to one that broke there: it is made once more.
        """
        made = self._made()
        limit = self._request.max_tokens
        if not made:
            return True
        if not self._keeps or self._engine is None or (limit is not None and made >= limit):
            return False
        answer = self._answer()
        if answer.finish_reason is not None or answer.tool_call_begun or answer.reasoning_begun:
            return False
        blank_ok = broken or not self._engine.traits.clean_cut_only
        return clean_cut(answer.text, self._request.stop, blank_ok=blank_ok)

    def _pause_if_clean(self) -> None:
        """At a token, with a pause due: cut here, wait for the next one, or say that it can't be."""
        if self._may_cut():
            raise Interrupted
        answer = self._answer()
        if answer.tool_call_begun or answer.reasoning_begun:
            self._dispatcher.fixed(self.seat)

    def _made(self) -> int:
        return self._made_before + (self._call.made_tokens if self._call is not None else 0)

    # -- between calls

    def _interrupted(self) -> None:
        if self.seat.pause_due and self.seat.replica is not None:
            self._fold_call()
            self._dispatcher.paused(self.seat)
        else:
            self._forget()

    def _failed(self, error: EngineFailed) -> None:
        """The replica failed; what was relayed must end cleanly to be continued, else it can't be (R46)."""
        if self._made() and self._ticket.continuable and not self._may_cut(broken=True):
            self._dispatcher.fixed(self.seat)
        self._fold_call()
        self._dispatcher.failed(self.seat, error)
        if not self._ticket.made_tokens and not self._ticket.sent:
            self._forget()

    def _fold_call(self) -> None:
        call = self._call
        if call is not None:
            self._prompt = self._prompt_usage()
            self._made_before += call.made_tokens
            self._call = None

    def _forget(self) -> None:
        """Start over: nothing of it has been sent, so what the engine made is nobody's to pay."""
        self.first_token_s = None
        self._call = self._folded = self._prompt = None
        self._blocks.clear()
        self._kept_bytes = self._made_before = 0
        self._unsent = b""

    # -- what it came to

    async def usage(self) -> tuple[Usage, bool]:
        """What the caller got, and whether the count is an estimate of ours (R35).

        The prompt is that of the first call, the output all that was sent: what a continuation
        computed again is nobody's to pay.
        """
        output = self._made()
        if (prompt := self._prompt_usage()) is not None:
            if self.cached is not None:
                self.cached.ended(self._prefilled_on, prompt.prompt)
            return with_output(self._split(prompt), output), False
        text = prompt_text(self._upstream)
        counted = await self._engine.count_tokens(text) if self._engine is not None else None
        prompt = Usage(input=self._ticket.prompt_tokens if counted is None else counted)
        return with_output(self._split(prompt), max(1, output)), True

    def rough_usage(self) -> Usage:
        """The same without asking anybody: good enough to settle a hold with."""
        return with_output(self._split(self._prompt_usage() or Usage(input=self._ticket.prompt_tokens)), self._made())

    def _split(self, prompt: Usage) -> Usage:
        """The prompt by what is read from and written to a cache: what its caller is billed (R30)."""
        if self.cached is None or not self._prefilled_on:
            return Usage(input=prompt.prompt)
        traits = self._dispatcher.berths[self._prefilled_on].engine.traits
        return self.cached.split(prompt, traits, self._prefilled_on)

    def _prompt_usage(self) -> Usage | None:
        """The prompt's, from the first call that told any; None if none did."""
        last = self._call.usage if self._call is not None else None
        if self._prompt is not None or last is None or not self._made_before:
            return self._prompt or last
        # A continuation's prompt holds the answer's beginning, and its cache is the answer's own.
        return Usage(input=max(1, last.prompt - self._made_before))

    def whole(self, usage: Usage) -> bytes:
        """The body of an answer that is not streamed: the engine's own, or put together from its events."""
        if self.body is None:
            return assemble(self._answer(), wire_usage(usage))
        return self.body if usage == self._prompt_usage() else with_usage(self.body, usage)


def _refused(error: EngineRefused) -> Refusal:
    """The engine found a mistake of the caller's: its own words, as ours."""
    code, param = error.error.get("code"), error.error.get("param")
    return Refusal(
        Outcome.INVALID,
        str(error)[:2000],
        code=code if isinstance(code, str) else None,
        param=param if isinstance(param, str) else None,
    )
