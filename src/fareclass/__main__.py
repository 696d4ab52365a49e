"""`fareclass` and `python -m fareclass`."""

import typer

from fareclass.cli import admin, budget, check, engine, local, reservation, usage, workload

_HELP = """Service tiers for LLM inference: a gateway that gives every request a fare class.

`fareclass serve` starts one; `project`, `key`, `quota`, `budget`, `price`, `pool`, `reservation`, `workload` and `usage`
speak to it while it runs.

From another machine they need FARECLASS_URL and FARECLASS_ADMIN_KEY.
"""


def main() -> None:
    program = typer.Typer(
        name="fareclass",
        help=_HELP,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    for module in (local, check, engine, admin, budget, reservation, workload, usage):
        module.register(program)
    program()


if __name__ == "__main__":
    main()
