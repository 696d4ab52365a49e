"""The console as `serve` starts it: `python -m fareclass.console.process`.

One JSON line on standard input says what it is. It ends when its standard input does, which is when the gateway ends,
however it ends, and at no signal but a kill. NiceGUI takes seconds to load, so all that is settled before.
"""

import os
import signal
import socket
import sys
import threading

import msgspec

from fareclass.console.settings import ChildSettings


def main() -> None:
    """Serve until standard input ends."""
    # What stops the gateway (Ctrl-C, an init system that signals the whole group) reaches this process too.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    if not (line := sys.stdin.buffer.readline()):
        return
    told = msgspec.json.decode(line, type=ChildSettings)
    threading.Thread(target=_end_with_input, daemon=True).start()
    from fareclass.console.server import serve_to_the_end  # noqa: PLC0415 - see above

    with socket.socket(fileno=told.fd) as listener:
        serve_to_the_end(told.settings, listener)


def _end_with_input() -> None:
    while sys.stdin.buffer.read(4096):
        pass
    os._exit(0)  # nothing here is kept, and open pages would hold up a slower end


if __name__ == "__main__":
    main()
