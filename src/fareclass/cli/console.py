"""`fareclass console`: the web console of a gateway that runs here or elsewhere."""

import errno
import ipaddress
import socket
from pathlib import Path

import typer

from fareclass.config import ConfigError, load
from fareclass.console.server import serve
from fareclass.console.settings import Settings

_BACKLOG = 128


def run(url: str, listen: str, file: Path | None) -> None:
    """Serve the console of the gateway at `url` until told to stop; `file` is a configuration, for its certificate.

    Ends the program on a mistake.
    """
    host, _, port = listen.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isdigit() or int(port) > 65_535:
        raise typer.BadParameter("must be HOST:PORT, such as 127.0.0.1:8001", param_hint="'--listen'")
    try:
        tls = load(file).tls if file else None
    except ConfigError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from None
    if tls is None and not _is_loopback(host):
        raise typer.BadParameter(
            f"{listen} can be reached from other machines: name a configuration with tls.cert and tls.key in --config",
            param_hint="'--listen'",
        )
    cert, key = (str(tls.cert), str(tls.key)) if tls else (None, None)
    with _listener(host, int(port)) as listener:
        place = f"{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
        typer.echo(f"Console of {url}: {'https' if tls else 'http'}://{place}")
        serve(Settings(gateway=url, cert=cert, key=key), listener)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _listener(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError as error:
        why = "another program uses it" if error.errno == errno.EADDRINUSE else error.strerror
        typer.echo(f"can't listen on {host}:{port}: {why}; choose another address with --listen", err=True)
        raise typer.Exit(2) from None
    return listener
