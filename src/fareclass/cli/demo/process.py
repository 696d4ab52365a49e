"""The demo's gateway as a process: `python -m fareclass.cli.demo.process FOLDER`.

It ends when its standard input does, which is when the demo ends, however it ends: then nobody else can remove the
folder either.
"""

import os
import shutil
import signal
import sys
import threading
from pathlib import Path

import typer

from fareclass.cli.demo.gateway import settings_file
from fareclass.cli.serve import run


def main() -> None:
    """Serve what is in the folder until told to stop, or alone."""
    folder, alone = Path(sys.argv[1]), threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # until the gateway has its own
    threading.Thread(target=_stop_with_input, args=(alone,), daemon=True).start()
    try:
        run(settings_file(folder))
    except typer.Exit as end:
        sys.exit(end.exit_code)
    finally:
        if alone.is_set():
            shutil.rmtree(folder, ignore_errors=True)


def _stop_with_input(alone: threading.Event) -> None:
    while sys.stdin.buffer.read(4096):
        pass
    alone.set()
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
