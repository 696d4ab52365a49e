"""`GET /console`: on to the web console, which is a process of its own with an address of its own."""

from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route


class ConsolePlace:
    """Where the console of this gateway is: `url` for this machine, None where there is none.

    Where it can be reached from other machines (`beyond`), callers find it at the host by which they named the gateway.
    """

    def __init__(self) -> None:
        self.url: str | None = None
        self.beyond = False


def console_route(place: ConsolePlace) -> Route:
    """The route `/console`."""

    async def redirect(request: Request) -> Response:
        if place.url is None:
            return PlainTextResponse("This gateway runs no console: its setting `console` says so.\n", 404)
        url = urlsplit(place.url)
        if place.beyond and (host := request.url.hostname):
            url = url._replace(netloc=f"{f'[{host}]' if ':' in host else host}:{url.port}")
        return RedirectResponse(f"{url.geturl()}/", 307)

    return Route("/console", redirect)
