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
    invoice,
    local,
    plan,
    reservation,
    route,
    top,
    usage,
    webhook,
    workload,
)

_HELP = """Service tiers for LLM inference: a gateway that gives every request a fare class.

`fareclass demo` shows what that means in six minutes.

`fareclass serve` starts one; `project`, `key`, `quota`, `budget`, `price`, `pool`, `reservation`, `batch-roots`, `webhook`,
`workload`, `route`, `usage`, `tiers`, `percentiles`, `invoice`, `plan` and `top` speak to it while it runs.

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
        local, check, engine, batch, consume, admin, budget, reservation, batch_roots, webhook, workload, route, usage,
        invoice, plan, top,
    )  # fmt: skip
    for module in commands:
        module.register(program)
    program()


if __name__ == "__main__":
    main()
