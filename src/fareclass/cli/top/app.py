"""The terminal program: asks every second, and draws what `view` makes of it."""

import asyncio
from collections import deque
from collections.abc import Sequence
from datetime import datetime
from typing import Any, ClassVar

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.widgets import Footer, Static

from fareclass.cli.top import view
from fareclass.cli.top.source import WINDOW_S, Away, Source

_LOOK_S = 1.0
_BOARD_TURNS = 2
"""The tier board comes out of the ledger: it is asked for at every second look."""
_SAMPLES = 300
_NARROW = 90
"""Where there is less room, columns stand closer."""


class Top(App[None]):
    """One model's pool at a time. While the gateway is away the last picture stays, with since when and why."""

    ENABLE_COMMAND_PALETTE = False
    CSS = """
    #head { height: 1; background: $primary; color: $text; text-style: bold; padding: 0 1; }
    #alarm { height: auto; max-height: 3; background: $error; color: $text; padding: 0 1; display: none; }
    #body { padding: 0 1; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "quit", "Quit"),
        Binding("m", "next_model", "Next model"),
        Binding("p", "pause", "Pause"),
        Binding("question_mark", "help", "Help", key_display="?"),
    ]

    def __init__(self, source: Source) -> None:
        super().__init__()
        self._source = source
        self._pools: list[dict[str, Any]] = []
        self._boards: dict[str, list[dict[str, Any]]] = {}
        self._rates: dict[str, deque[float]] = {}
        self._owners: dict[str, str] = {}
        self._place = 0
        self._seen_at: datetime | None = None
        self._away: tuple[datetime, str] | None = None
        self._late = ""
        self._paused = self._helping = False

    def compose(self) -> ComposeResult:
        yield Static(id="head")
        yield Static(id="alarm")
        with VerticalScroll(id="body"):
            yield Static(id="picture")
        yield Footer()

    def on_mount(self) -> None:
        self.query_one("#body").focus()
        self.run_worker(self._watch())

    async def on_unmount(self) -> None:
        await self._source.close()

    def on_resize(self) -> None:
        self._draw()

    async def _watch(self) -> None:
        turn = 0
        while True:
            if not self._paused:
                await self._look(board=turn % _BOARD_TURNS == 0)
                turn += 1
            await asyncio.sleep(_LOOK_S)

    async def _look(self, *, board: bool) -> None:
        """One look; a gateway that is away leaves the picture as it is."""
        try:
            self._pools = await self._source.pools()
        except Away as away:
            self._away = (self._away[0] if self._away else datetime.now(), str(away))  # noqa: DTZ005 - for the eye
        else:
            self._away = None
            self._seen_at = datetime.now()  # noqa: DTZ005 - for the eye
            self._place = min(self._place, max(0, len(self._pools) - 1))
        self._draw()
        if board and self._pools and self._away is None:
            await self._look_closer(self._pools[self._place])
            self._draw()

    async def _look_closer(self, pool: dict[str, Any]) -> None:
        """The tier board of the pool that is shown, and whose floors there are; the last ones stay while reports are late."""
        model = pool["model"]
        try:
            self._boards[model] = await self._source.board(model)
            if any(floor["project"] not in self._owners for floor in pool["floors"]):
                self._owners |= await self._source.owners(model)
        except Away as away:
            self._late = str(away)
            return
        self._late = ""
        self._rates.setdefault(model, deque(maxlen=_SAMPLES)).append(view.tokens_per_s(self._boards[model]))

    def action_next_model(self) -> None:
        self._place = (self._place + 1) % max(1, len(self._pools))
        self._draw()

    def action_pause(self) -> None:
        self._paused = not self._paused
        self._draw()

    def action_help(self) -> None:
        self._helping = not self._helping
        self._draw()

    def _draw(self) -> None:
        if not self.query("#head"):
            return  # a resize before the first picture
        self.query_one("#head", Static).update(Text(self._heading(), no_wrap=True, overflow="ellipsis"))
        alarm = self.query_one("#alarm", Static)
        alarm.display = self._away is not None
        if self._away:
            alarm.update(Text(f"Away since {self._away[0]:%H:%M:%S}: {self._away[1]}"))
        self.query_one("#picture", Static).update(self._picture())

    def _heading(self) -> str:
        model = ""
        if self._pools:
            model = f"{self._pools[self._place]['model']} ({self._place + 1} of {len(self._pools)})  "
        seen = f"{self._seen_at:%H:%M:%S}" if self._seen_at else ""
        return f"{model}{'PAUSED ' if self._paused else ''}{seen}  {self._source.url}"

    def _picture(self) -> RenderableType:
        if self._helping:
            return Text(view.HELP)
        if not self._pools:
            return Text("" if self._away else "Looking…")
        pool = self._pools[self._place]
        room = max(20, self.size.width - 4)
        board = self._boards.get(pool["model"], [])
        parts: list[RenderableType] = [
            Text(view.heading(pool), "bold"),
            *view.replica_bars(pool, room),
            _table(view.LINE_HEADINGS, view.tier_lines(pool), room),
            Text(f"The last {WINDOW_S} s{self._about(board)}", "bold"),
        ]
        if board:
            parts.append(_table(view.BOARD_HEADINGS, view.board_rows(board), room))
        if pool["floors"]:
            parts.append(_table(view.FLOOR_HEADINGS, view.floor_rows(pool, self._owners), room))
        parts.append(_spark(self._rates.get(pool["model"], ()), room))
        return Group(*parts)

    def _about(self, board: Sequence[object]) -> str:
        """What is to be said of the tier board."""
        if self._late:
            return f", of before: {self._late}"
        return "" if board else ": no request ended"


def _spark(rates: Sequence[float], room: int) -> Text:
    now = f"output {rates[-1] if rates else 0:,.0f} tok/s "
    return Text(now).append(view.sparkline(list(rates), room - len(now)), "green")


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]], room: int) -> Table:
    table = Table(box=None, padding=(0, 2 if room > _NARROW else 1, 0, 0), header_style="dim")
    for place, heading in enumerate(headings):
        table.add_column(heading, justify="right" if place else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table
