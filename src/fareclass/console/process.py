"""The console as `serve` starts it: `python -m fareclass.console.process`.

One JSON line on standard input says what it is. It ends when its standard input does, which is when the gateway ends,
however it ends.
"""

import os
import signal
import socket
import sys
import threading

import msgspec

from fareclass.console.server import serve
from fareclass.console.settings import ChildSettings


def main() -> None:
    """Serve until standard input ends."""
    told = msgspec.json.decode(sys.stdin.buffer.readline(), type=ChildSettings)
    # A Ctrl-C or the stop of an init system reaches this process too: the gateway decides when it ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_input, daemon=True).start()
    with socket.socket(fileno=told.fd) as listener:
        serve(told.settings, listener)


def _end_with_input() -> None:
    while sys.stdin.buffer.read(4096):
        pass
    os._exit(0)  # nothing here is kept, and open pages would hold up a slower end


if __name__ == "__main__":
    main()
