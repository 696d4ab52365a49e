"""`fareclass` and `python -m fareclass`."""

import typer

from fareclass.cli import admin, check, db, engine, serve, usage


def main() -> None:
    program = typer.Typer(
        name="fareclass",
        help="Service tiers for LLM inference: a gateway that gives every request a fare class.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    for module in (serve, check, engine, admin, usage, db):
        module.register(program)
    program()


if __name__ == "__main__":
    main()
