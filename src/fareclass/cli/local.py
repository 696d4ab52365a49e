"""`fareclass serve`, `console`, `demo`, `replay`, `bench` and `db`: commands that work on the gateway's own machine.

What they need is imported when one of them runs, so that no client waits for a server to load.
"""

from pathlib import Path
from typing import Annotated

import typer

from fareclass.cli.control_client import DEFAULT_URL, Json, Url

Config = Annotated[Path | None, typer.Option(help="The configuration file. Without one: the built-in settings.")]


def register(program: typer.Typer) -> None:
    """Add the commands to the program."""
    program.command()(serve)
    program.command()(console)
    program.command()(demo)
    program.command()(replay)
    group = typer.Typer(help="The database's schema.", no_args_is_help=True)
    group.command()(upgrade)
    group.command()(current)
    program.add_typer(group, name="db")
    bench = typer.Typer(help="Measure what an engine can do. Needs no running gateway.", no_args_is_help=True)
    bench.command()(capacity)
    bench.callback()(_bench)  # a group of one command would be that command
    program.add_typer(bench, name="bench")


def serve(config: Config = None) -> None:
    """Start the gateway, and the built-in engine where a model uses it.

    Without a configuration file it serves a small built-in model. The first start makes the keys and shows them.

    SIGTERM or Ctrl-C lets running work finish; a second one ends it at once.

    Example: fareclass serve --config fareclass.yaml
    """
    from fareclass.cli.serve import run

    run(config)


def demo(
    minutes: Annotated[float, typer.Option(min=0.05, max=120, help="How long the day takes.")] = 6,
) -> None:
    """Play a day of a small fleet in minutes, and show what each tier gets of it.

    It starts a gateway of its own, with simulated engines and a temporary folder: nothing is downloaded, nothing is left.

    Five products share two models: tax returns with a reservation, check deposits on priority, code helpers on default,
    agents on flex, and a batch at night. Ctrl-C ends it at any time.

    Example: fareclass demo --minutes 6
    """
    from fareclass.cli.demo.run import run

    run(minutes)


def console(
    url: Url = DEFAULT_URL,
    listen: Annotated[str, typer.Option(help="HOST:PORT that the console listens on.")] = "127.0.0.1:8001",
    config: Config = None,
) -> None:
    """Start the web console of a gateway. `serve` starts one too: this is for a gateway elsewhere.

    One logs in with the gateway's admin key, or with its read-only key. So that other machines can reach the console,
    --config must name a configuration with a certificate (tls).

    Example: fareclass console --url https://gateway.example:8000
    """
    from fareclass.cli.console import run

    run(url, listen, config)


def replay(
    trace: Annotated[
        Path,
        typer.Argument(
            help="CSV or JSON lines, plain or gzipped, in order of time: timestamp, input_tokens, output_tokens, and "
            "where there are such cache_read_tokens, project, model, tier."
        ),
    ],
    config: Config = None,
    model: Annotated[str | None, typer.Option(help="Send everything to this model, whatever the trace says.")] = None,
    tier: Annotated[str | None, typer.Option(help="Send everything as this tier.")] = None,
    mix: Annotated[
        str | None, typer.Option(metavar="TIER=SHARE,…", help="Draw each request's tier by these shares.")
    ] = None,
    reserve: Annotated[
        list[str] | None,
        typer.Option(metavar="PROJECT=INPUT_TPM:OUTPUT_TPM", help="A floor for a project; may be given several times."),
    ] = None,
    speed: Annotated[float, typer.Option(min=0.001, max=1_000, help="Let requests come so many times as fast.")] = 1.0,
    seed: Annotated[int, typer.Option(help="What the tiers of --mix are drawn from.")] = 1,
    as_json: Json = False,
) -> None:
    """Replay a trace through the scheduler and a simulated fleet: what would every tier have got?

    It needs no running gateway, and asks none. The fleet is that of the configuration: simulated engines as they are,
    others by their `capacity`. A week of a million requests takes a minute or two.

    A request without a tier goes as default. One that asks for reserved takes from its project's --reserve; a project
    without one runs as if its floor always had room.

    Example: fareclass replay trace.csv.gz --mix priority=0.2,flex=0.3
    """
    from fareclass.cli.replay import run

    run(
        trace,
        config,
        model=model,
        tier=tier,
        mix=mix,
        reserve=reserve or (),
        speed=speed,
        seed=seed,
        as_json=as_json,
    )


def upgrade(config: Config = None) -> None:
    """Bring the database up to this version; `serve` does so too.

    Example: fareclass db upgrade --config fareclass.yaml
    """
    from fareclass.cli import db

    db.upgrade(config)


def current(config: Config = None) -> None:
    """Show the database's schema and the one this version needs.

    Example: fareclass db current --config fareclass.yaml
    """
    from fareclass.cli import db

    db.current(config)


def _bench() -> None:
    """Measure what an engine can do. Needs no running gateway."""


def capacity(
    model: Annotated[str, typer.Argument(help="The model, as the configuration names it.")], config: Config = None
) -> None:
    """Measure what the model's pool does of each kind alone: that is what can be reserved.

    The model stands in the file that --config names; without that there is only the built-in one.

    It starts the model's engine, or uses the replicas that the configuration names, and loads them for up to a minute:
    prompts of growing length, then answers in growing numbers. Do it while nobody else uses them. The last lines
    belong into the configuration file; they alone go to standard output.

    Example: fareclass bench capacity smollm2-135m --config fareclass.yaml
    """
    from fareclass.cli.bench import measure

    measure(model, config)
