"""`fareclass` and `python -m fareclass`."""

import typer

from fareclass.cli import admin, batch, budget, check, engine, local, reservation, usage, webhook, workload

_HELP = """Service tiers for LLM inference: a gateway that gives every request a fare class.

`fareclass serve` starts one; `project`, `key`, `quota`, `budget`, `price`, `pool`, `reservation`, `webhook`, `workload` and
`usage` speak to it while it runs.

From another machine they need FARECLASS_URL and FARECLASS_ADMIN_KEY. `batch` sends many requests from a file, with a
project's key in FARECLASS_API_KEY.
"""


def main() -> None:
    program = typer.Typer(
        name="fareclass",
        help=_HELP,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    for module in (local, check, engine, batch, admin, budget, reservation, webhook, workload, usage):
        module.register(program)
    program()


if __name__ == "__main__":
    main()
