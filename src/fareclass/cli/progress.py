"""What a start is busy with, shown as it happens."""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn


class Steps:
    """One line for each step: a bar in bytes where its size is known; plain text where there is no terminal.

    Call it with the step's words, and with the bytes done and in all where it moves bytes.
    May be called from any thread.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._tasks: dict[str, TaskID] = {}
        self._bars = Progress(
            SpinnerColumn(finished_text="✓"),
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[size]}"),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._finish_all()
        self._bars.stop()

    def __call__(self, step: str, done: int = 0, total: int | None = None) -> None:
        if step not in self._tasks:
            self._finish_all()
            if not self._console.is_terminal:
                self._console.print(f"{step}…", markup=False)
            self._tasks[step] = self._bars.add_task(step, total=total, size="")
        size = f"{done / 1e6:.0f} of {total / 1e6:.0f} MB" if total else ""
        self._bars.update(self._tasks[step], completed=done, total=total, size=size)

    def _finish_all(self) -> None:
        for task in self._bars.tasks:
            self._bars.update(task.id, completed=task.total or 1, total=task.total or 1)
