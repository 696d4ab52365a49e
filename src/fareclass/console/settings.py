"""What a console process is told: which gateway it shows, and how it is reached itself."""

import msgspec


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """`gateway` is the gateway's URL as this machine reaches it; `trusted` a PEM file with the certificate that it must
    answer with, None for one that the system trusts. With `cert` and `key` the console speaks TLS.
    """

    gateway: str
    trusted: str | None = None
    cert: str | None = None
    key: str | None = None


class ChildSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What `serve` tells the process that it starts: `fd` is the listening socket."""

    settings: Settings
    fd: int
