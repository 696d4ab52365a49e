"""Which slot a call gets, against a server that is slow or fails: no slot is lost, no prompt found by others (R31)."""

import asyncio
from pathlib import Path

import pytest

from fareclass.core.prefix import Prefix
from fareclass.engine import slots
from fareclass.engine.base import Prompt
from fareclass.engine.slots import Lease, SlotBook


class Server:
    """Writes and reads slot files; not before `go`, nor at all while `broken`."""

    def __init__(self) -> None:
        self.folder = Path()
        self.done: list[tuple[int, str]] = []
        self.broken = False
        self.go = asyncio.Event()
        self.go.set()

    async def act(self, slot: int, action: str, file: str) -> int | None:
        self.done.append((slot, action))
        if action == "save":
            (self.folder / file).touch()
        await self.go.wait()
        return None if self.broken else 10

    @property
    def files(self) -> int:
        return len(list(self.folder.iterdir()))


@pytest.fixture
def server(tmp_path) -> Server:
    made = Server()
    made.folder = tmp_path
    return made


def book(server: Server, count: int) -> SlotBook:
    return SlotBook(count, server.folder, server.act)


def asks(id: str, project: str, beginning: str = "") -> Prompt:
    """All of a project's prompts are the same, so that its own slot is the best one."""
    prefix = Prefix((project.encode(),), (1,))
    chat = "/chat/completions"
    return Prompt(path=chat, body={}, stream=True, rank=1, id=id, salt=project, beginning=beginning, prefix=prefix)


async def ran(made: SlotBook, id: str, project: str, *, whole: bool = True, now: float = 0.0) -> None:
    lease = await made.take(asks(id, project), now, 1)
    lease.begun()
    lease.end(now, begun=True, whole=whole)


async def stopped(task: "asyncio.Task[Lease]") -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def starts(made: SlotBook, id: str, project: str, beginning: str = "", *, now: float = 1.0, width: int = 1):
    return asyncio.create_task(made.take(asks(id, project, beginning), now, width))


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_r11_a_caller_who_hangs_up_while_another_answer_is_put_aside_takes_no_slot_along(server):
    made = book(server, 1)
    await ran(made, "a", "A", whole=False)
    server.go.clear()
    task = starts(made, "b", "B")
    await settled()
    await stopped(task)
    server.go.set()
    again = await made.take(asks("b", "B"), 1, 1)
    assert (again.slot, again.reuse, server.files) == (0, False, 0)


async def test_r11_an_answer_that_is_read_back_may_be_crowded_out_meanwhile(server, monkeypatch):
    """The files' room is used up by another one just then."""
    monkeypatch.setattr(slots, "SLOT_FILES_BYTES", 15)
    made = book(server, 3)
    for name in "abc":
        await ran(made, name, name.upper(), whole=False)
    await ran(made, "x", "X", now=9)
    server.go.clear()
    back = starts(made, "a", "A", "beginning", now=10)
    crowd = [starts(made, name, name.upper(), now=11) for name in "de"]
    await settled()
    server.go.set()
    assert (await back).reuse
    await asyncio.gather(*crowd)
    assert server.files <= 1


async def test_r31_a_call_of_several_sequences_waits_for_those_that_count_on_their_slot(server):
    """The server would be free to put it there first. Who comes meanwhile counts on nothing, so it waits no longer."""
    made = book(server, 3)
    await ran(made, "a", "A")
    own = await made.take(asks("a2", "A"), 1, 1)
    assert own.reuse
    several = starts(made, "m", "M", width=2)
    await settled()
    assert not several.done()
    next_one = await made.take(asks("a3", "A"), 1, 1)
    assert not next_one.reuse
    own.begun()
    await settled()
    assert (await several).slot is None


async def test_r31_nothing_is_known_of_a_slot_that_was_used_while_the_server_placed_calls_itself(server):
    """One that ended at the server may have been given away there before its end was heard of here."""
    made = book(server, 1)
    long = await made.take(asks("a", "A"), 0, 1)
    long.begun()
    several = await made.take(asks("m", "M"), 0, 2)
    several.end(1, begun=True, whole=True)
    long.end(2, begun=True, whole=True)
    assert not (await made.take(asks("a2", "A"), 3, 1)).reuse


async def test_r31_a_call_of_several_sequences_that_was_cut_may_still_be_placed_for_a_moment(server):
    made = book(server, 1)
    (await made.take(asks("m", "M"), 0, 2)).end(1, begun=False, whole=False)
    await ran(made, "a", "A", now=1.1)
    cold = await made.take(asks("a2", "A"), 1.2, 1)
    assert not cold.reuse
    cold.end(1.3, begun=True, whole=True)
    later = await made.take(asks("a2", "A"), 1.6, 1)
    assert not later.reuse, "it may have been placed behind that one"
    later.end(1.7, begun=True, whole=True)
    (await made.take(asks("n", "M"), 2, 2)).end(2, begun=True, whole=True)
    await ran(made, "a3", "A", now=3)
    assert (await made.take(asks("a4", "A"), 4, 1)).reuse, "soon all is as before"


async def test_r31_a_call_of_several_sequences_that_gave_up_waiting_stops_nobody(server):
    made = book(server, 2)
    await ran(made, "a", "A")
    own = await made.take(asks("a2", "A"), 1, 1)
    several = starts(made, "m", "M", width=2)
    await settled()
    await stopped(several)
    own.end(1, begun=True, whole=True)
    assert (await made.take(asks("a3", "A"), 2, 1)).reuse


async def test_an_answer_that_ended_is_not_put_aside(server):
    """Who hangs up delays nobody and leaves nothing."""
    made = book(server, 2)
    for number in range(20):
        await ran(made, f"a{number}", "A", whole=False, now=number)
        made.forget(f"a{number}")
    assert not server.done


async def test_an_answer_that_ends_while_it_is_put_aside_or_after_leaves_no_file(server):
    made = book(server, 1)
    await ran(made, "a", "A", whole=False)
    await ran(made, "b", "B", now=1)
    assert server.files == 1
    made.forget("a")
    assert server.files == 0
    await ran(made, "c", "C", whole=False, now=2)
    server.go.clear()
    task = starts(made, "d", "D", now=3)
    await settled()
    made.forget("c")
    server.go.set()
    await task
    assert server.done[-1] == (0, "save") and server.files == 0


async def test_r31_an_answer_that_could_not_be_put_aside_is_not_read_back(server):
    made = book(server, 1)
    await ran(made, "a", "A", whole=False)
    server.broken = True
    await ran(made, "b", "B", now=1)
    assert server.files == 0
    back = await made.take(asks("a", "A", "beginning"), 2, 1)
    assert not back.reuse and server.done == [(0, "save")]
