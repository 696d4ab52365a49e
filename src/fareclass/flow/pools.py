"""What the control plane needs of the running pools."""

from collections.abc import Sequence
from typing import Any, Protocol


class Pools(Protocol):
    """The replicas behind the models. Called in the event loop."""

    def describe(self, model: str | None) -> list[dict[str, Any]]:
        """Each pool, or one model's: `model`, `replicas` (each with `id`, `slots`, `tiers`, `drain`, …), queues.

        Raises:
            LookupError: no such model.
        """

    def follow(self) -> None:
        """Put what reservations say now into force, before a change of one is answered (R18)."""

    async def change(
        self, model: str, replica: str, *, drain: bool | None, tiers: Sequence[str] | None, slots: int | None
    ) -> dict[str, Any]:
        """Change a running replica, in force within 1 s (R16); None leaves as it is. Returns it as `describe` does.

        Raises:
            LookupError: no such model or replica.
            ValueError: it can't be so; the message is for the operator.
        """
