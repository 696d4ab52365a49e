"""What the gateway tells the built-in engine's process; apart, so that neither imports the other."""

import os

import msgspec


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What to run. `slots` sequences at once, of `context_tokens` each; `parent` is the gateway's process.

    `chat_template` stands in for the model's own, unless it is empty.
    `folder` takes the caches of paused answers, for a gateway that keeps track of the slots; None for nobody's.
    """

    model_path: str
    model_name: str
    slots: int
    context_tokens: int
    threads: int
    api_key: str
    parent: int
    folder: str | None
    chat_template: str = ""


def server_environment() -> dict[str, str]:
    """The process's environment: without the gateway's secrets, and with threads that hardly spin at a barrier.

    By default they spin for long. On two cores of which one was busy with something else, as the
    gateway itself may be, that made a token take 180 ms instead of 30; sleeping at once, on idle
    cores, 34 instead of 12 (docs/decisions/0004-engine.md).
    """
    ours = {name: value for name, value in os.environ.items() if not name.startswith("FARECLASS_")}
    return {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "1000", **ours}


def usable_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
