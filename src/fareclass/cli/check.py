"""`fareclass check`: is this configuration usable?"""

from pathlib import Path
from typing import Annotated

import typer

from fareclass.config import ConfigError, load


def register(program: typer.Typer) -> None:
    @program.command()
    def check(file: Annotated[Path, typer.Argument(help="The configuration file.")]) -> None:
        """Check a configuration file, with the environment variables that would override it. Starts nothing.

        Example: fareclass check fareclass.yaml
        """
        try:
            config = load(file)
        except ConfigError as error:
            typer.echo(str(error), err=True)
            raise typer.Exit(2) from None
        typer.echo(f"{file}: good. Models: {', '.join(config.models)}. It would listen on {config.listen}.")
