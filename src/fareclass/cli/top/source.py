"""Where `fareclass top` has its figures from: the pools, and the tier board of the last minute. Nothing is kept here."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx

from fareclass.cli.control_client import LOCAL_DIRECT, unreachable
from fareclass.core.limits import PAGE

WINDOW_S = 60
"""The tier board is of so many seconds up to now."""
_TIMEOUT_S = 5.0
_DENIED = (401, 403)


class Away(Exception):
    """There is no picture to be had now; says why."""


class Source:
    """One gateway, with a key that may read its control plane."""

    def __init__(self, url: str, key: str) -> None:
        self.url = url
        self._headers = {"authorization": f"Bearer {key}"}
        self._client: httpx.AsyncClient | None = None

    async def pools(self) -> list[dict[str, Any]]:
        """Every pool as it is now.

        Raises:
            Away: it does not answer, or not as a gateway does.
        """
        return await self._data("/admin/v1/pools", {})

    async def board(self, model: str) -> list[dict[str, Any]]:
        """What the last minute was like on one model, by requested and served tier.

        Raises:
            Away: as with `pools`.
        """
        since = datetime.now(UTC) - timedelta(seconds=WINDOW_S)
        return await self._data("/admin/v1/tiers", {"model": model, "from": since.isoformat()})

    async def owners(self, model: str) -> dict[str, str]:
        """Names of the projects with a reservation on a model, by id.

        Raises:
            Away: as with `pools`.
        """
        found = await self._data("/admin/v1/reservations", {"model": model, "limit": str(PAGE)})
        return {one["project"]: one["project_name"] for one in found}

    async def close(self) -> None:
        if self._client is not None:
            await self._client.aclose()

    async def _data(self, path: str, params: Mapping[str, str]) -> list[dict[str, Any]]:
        if self._client is None:
            self._client = httpx.AsyncClient(mounts=LOCAL_DIRECT, timeout=_TIMEOUT_S, headers=self._headers)
        try:
            answer = await self._client.get(self.url + path, params=params)
        except (httpx.HTTPError, OSError) as error:
            raise Away(unreachable(self.url, error, _TIMEOUT_S)) from None
        if answer.status_code in _DENIED:
            raise Away("the gateway does not take this key: set FARECLASS_ADMIN_KEY to its admin or read-only key")
        try:
            data: list[dict[str, Any]] = answer.raise_for_status().json()["data"]
        except (httpx.HTTPStatusError, ValueError, LookupError, TypeError):
            raise Away(
                f"{path} answered {answer.status_code}, not as a Fareclass gateway of this version does"
            ) from None
        return data
