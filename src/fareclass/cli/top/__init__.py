"""`fareclass top`: the pools, live, in a terminal. What it needs is imported when it runs: textual takes its time to load."""

import typer

from fareclass.cli.control_client import DEFAULT_URL, Url, admin_key


def register(program: typer.Typer) -> None:
    """Add the command to the program."""
    program.command()(top)


def top(url: Url = DEFAULT_URL) -> None:
    """Watch the pools: slots, queues, waits, and what each tier gets, a second at a time.

    Keys: q quit, m next model, p pause, ? help.

    FARECLASS_ADMIN_KEY may hold the gateway's read-only key: this only looks.

    Example: fareclass top --url http://127.0.0.1:8000
    """
    key = admin_key(url)
    from fareclass.cli.top.app import Top  # noqa: PLC0415 - the module's docstring says why
    from fareclass.cli.top.source import Source  # noqa: PLC0415

    Top(Source(url, key)).run()
