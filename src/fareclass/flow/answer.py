"""One answer, over as many upstream calls as it takes: waiting, pauses, restarts and failovers included."""

import asyncio
from collections.abc import Mapping
from typing import Any

from fareclass.core.limits import ANSWER_BYTES, SSE_COMMENT_S
from fareclass.core.outcomes import Outcome, Refusal
from fareclass.core.request import Request
from fareclass.core.usage import Usage
from fareclass.engine.answer import Answer, assemble, clean_cut, read_answer
from fareclass.engine.base import Call, Engine, EngineFailed, EngineRefused, Prompt
from fareclass.flow.dispatch import Dispatcher
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

    def __init__(
        self, dispatcher: Dispatcher, request: Request, body: Mapping[str, Any], ticket: Ticket, reply: Reply
    ) -> None:
        self.seat = Seat(ticket)
        self.served: Served
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

    async def run(self) -> None:
        """Produce the whole answer; a stream has been relayed when this returns, but for its end.

        Raises:
            Refusal: it can't be produced, or not further.
            ConnectionError: the caller has gone.
        """
        served = self.served
        while True:
            replica = self.seat.replica or await self._turn()
            berth = self._dispatcher.berths[replica]
            self.replica = served.replica = replica
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

    def release(self, used_tokens: int, *, served: bool) -> None:
        """Give the seat and its hold back, the hold corrected to what was used (R25)."""
        self._dispatcher.finish(self.seat, used_tokens, served=served)

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
        )
        self.seat.active_at = self._loop.time()
        self._call = await engine.open(prompt)
        return self._call

    async def _take(self, call: Call) -> None:
        """The answer in one piece."""
        self.body = await call.body()
        self.first_token_s = self._loop.time()  # the call's end, which the scheduler hears of next

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
        time = self._loop.time
        first = True
        async for block in call:
            now = seat.active_at = time()
            if now - self._last_s > self.longest_gap_s and self.first_token_s is not None:
                self.longest_gap_s = now - self._last_s
            self._last_s = now
            if first:
                first = False
                self._made_before -= self._again
                self._first_token()
                if relays and self._reply.started:
                    self._reply.continued()
            brain.produced(ticket, block.count(b"\n\n"))
            if self._keeps:
                self._keep(block)
            if relays and reply.started:
                self._unsent = block  # as `_relay`, without a coroutine that each token would pay for
                await reply.relay(block)
                self._unsent = b""
            elif relays:
                await self._relay(block)
            if seat.pause_due:
                self._pause_if_clean()

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
            self.first_token_s = self._loop.time()
        self._dispatcher.first_token(self.seat)

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
            return _with_output(prompt, output), False
        text = _prompt_text(self._upstream)
        counted = await self._engine.count_tokens(text) if self._engine is not None else None
        return Usage(input=self._ticket.prompt_tokens if counted is None else counted, output=max(1, output)), True

    def rough_usage(self) -> Usage:
        """The same without asking anybody: good enough to settle a hold with."""
        return _with_output(self._prompt_usage() or Usage(input=self._ticket.prompt_tokens), self._made())

    def _prompt_usage(self) -> Usage | None:
        """The prompt's, from the first call that told any; None if none did."""
        last = self._call.usage if self._call is not None else None
        if self._prompt is not None or last is None or not self._made_before:
            return self._prompt or last
        # A continuation's prompt holds the answer's beginning, and its cache is the answer's own.
        return Usage(input=max(1, last.prompt - self._made_before))

    def whole(self, usage: Usage) -> bytes:
        """The body of an answer that is not streamed: the engine's own, or put together from its events."""
        return assemble(self._answer(), _wire_usage(usage)) if self.body is None else self.body


def _wire_usage(usage: Usage) -> dict[str, object]:
    """Usage in the words of the OpenAI API, whose `prompt_tokens` include what was cached."""
    return {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.output,
        "total_tokens": usage.prompt + usage.output,
        "prompt_tokens_details": {
            "cached_tokens": usage.cache_read,
            "cache_write_tokens": usage.cache_write_5m + usage.cache_write_1h,
        },
    }


def _with_output(prompt: Usage, output: int) -> Usage:
    if prompt.output == output:
        return prompt
    return Usage(
        input=prompt.input,
        cache_write_5m=prompt.cache_write_5m,
        cache_write_1h=prompt.cache_write_1h,
        cache_read=prompt.cache_read,
        output=output,
    )


def _prompt_text(body: Mapping[str, Any]) -> str:
    """The words of a request, for a tokenizer that knows no chat template."""
    messages = body.get("messages")
    if not isinstance(messages, list):
        given = body.get("prompt", body.get("input", ""))
        return given if isinstance(given, str) else "\n".join(str(part) for part in given)
    parts = [message.get("content") for message in messages]
    return "\n".join(part if isinstance(part, str) else str(part or "") for part in parts)


def _refused(error: EngineRefused) -> Refusal:
    """The engine found a mistake of the caller's: its own words, as ours."""
    code, param = error.error.get("code"), error.error.get("param")
    return Refusal(
        Outcome.INVALID,
        str(error)[:2000],
        code=code if isinstance(code, str) else None,
        param=param if isinstance(param, str) else None,
    )
