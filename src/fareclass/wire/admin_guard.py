"""Who may call the control plane: the admin key everything, the read-only key what changes nothing."""

import hmac

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from fareclass.flow.operator_rules import ControlError
from fareclass.wire.admin_http import Handler, Operation, answer, read_query
from fareclass.wire.admin_types import NoQuery

ADMIN, READ_ONLY = "admin", "read_only"
_LOOKING = frozenset({("POST", "/plan")})
"""Beside every GET: calls that change nothing, though they have a body."""


class Self(msgspec.Struct, frozen=True):
    """What the key of this call may do: `admin` everything, `read_only` only look."""

    role: str


class Guard:
    """Compares keys in equal time, both of them whatever the first comparison says (R51)."""

    def __init__(self, admin_key: str, read_only_key: str | None = None) -> None:
        self._admin = admin_key.encode()
        self._read_only = None if read_only_key is None else read_only_key.encode()

    def role(self, request: Request) -> str:
        """Raises:
        ControlError: `unauthenticated`: it is neither key.
        """
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        key = given.strip().encode("latin-1", "replace")
        admin = hmac.compare_digest(key, self._admin)
        read_only = self._read_only is not None and hmac.compare_digest(key, self._read_only)
        if scheme.lower() != "bearer" or not (admin or read_only):
            raise ControlError(
                "unauthenticated", "the admin key is missing or wrong; send it as `Authorization: Bearer <admin key>`"
            )
        return ADMIN if admin else READ_ONLY

    def behind(self, operation: Operation) -> Handler:
        """The operation's handler for callers who may call it."""
        looks = operation.method == "GET" or (operation.method, operation.path) in _LOOKING

        async def handle(request: Request) -> Response:
            if self.role(request) != ADMIN and not looks:
                raise ControlError("forbidden", "this is the read-only key: changes need the admin key")
            return await operation.handler(request)

        return handle

    def operations(self) -> list[Operation]:
        """What the control plane says of the caller's own key."""
        return [Operation("GET", "/self", self.show, "What this key may do", Self)]

    async def show(self, request: Request) -> Response:
        read_query(request, NoQuery)
        return answer(Self(self.role(request)))
