"""The process of the built-in engine: llama.cpp's own HTTP server, and nothing else.

Run by `local` as `python -m fareclass.engine.local_server`. One JSON line on standard input
says what to run (so that its key is not in the process list); one JSON line on standard
output says where it listens. The process ends when its standard input ends, which it does
when the gateway dies however it dies, and on Linux also by a signal from the kernel.
"""

import ctypes
import os
import signal
import sys

import msgspec
import xllamacpp

from fareclass.engine.local_settings import Settings

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Serve until standard input ends."""
    settings = msgspec.json.decode(sys.stdin.buffer.readline(), type=Settings)
    _die_with(settings.parent)
    try:
        server = _start(settings)
    except RuntimeError as error:
        sys.exit(str(error))
    # A Ctrl-C or the stop of an init system reaches this process too; the gateway's streams end before it does.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.stdout.buffer.write(msgspec.json.encode({"url": server.listening_address}) + b"\n")
    sys.stdout.buffer.flush()
    while sys.stdin.buffer.read(4096):
        pass
    os._exit(0)  # llama.cpp's own threads would keep the process until the last answer is made


def _start(settings: Settings) -> xllamacpp.Server:
    params = xllamacpp.CommonParams()
    params.model.path = settings.model_path
    params.model_alias = {settings.model_name}
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.api_keys = [settings.api_key]
    params.chat_template = settings.chat_template
    params.n_parallel = settings.slots
    params.n_ctx = settings.slots * settings.context_tokens
    # Small batches keep a long prompt from freezing the streams beside it, and let a caller who
    # hangs up in mid-prefill be noticed within 0.3 s.
    params.n_batch = 64
    params.n_ubatch = 64
    if settings.folder is not None:
        # The cache in main memory hands one caller's prompt to another, also to calls that name their slot (R31).
        params.cache_ram_mib = 0
        params.slot_save_path = settings.folder + os.sep
    params.cpuparams.n_threads = settings.threads
    params.cpuparams_batch.n_threads = settings.threads
    params.n_threads_http = 2 * settings.slots + 8
    params.endpoint_metrics = True
    params.endpoint_slots = True
    params.ui = False
    params.offline = True
    params.cors_origins = ""
    return xllamacpp.Server(params)


def _die_with(parent: int) -> None:
    """On Linux, have the kernel end this process when the one that started it is gone."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)


if __name__ == "__main__":
    main()
