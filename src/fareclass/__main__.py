"""`fareclass` and `python -m fareclass`."""

import typer

from fareclass.cli import (
    admin,
    batch,
    batch_roots,
    budget,
    check,
    consume,
    engine,
    local,
    reservation,
    usage,
    webhook,
    workload,
)

_HELP = """Service tiers for LLM inference: a gateway that gives every request a fare class.

`fareclass serve` starts one; `project`, `key`, `quota`, `budget`, `price`, `pool`, `reservation`, `batch-roots`, `webhook`,
`workload` and `usage` speak to it while it runs.

From another machine they need FARECLASS_URL and FARECLASS_ADMIN_KEY. `batch` sends many requests from a file,
`consume` those of a queue, with a project's key in FARECLASS_API_KEY.
"""


def main() -> None:
    program = typer.Typer(
        name="fareclass",
        help=_HELP,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    commands = (
        local, check, engine, batch, consume, admin, budget, reservation, batch_roots, webhook, workload, usage,
    )  # fmt: skip
    for module in commands:
        module.register(program)
    program()


if __name__ == "__main__":
    main()
