"""The data plane of the wire's tests, for clients."""

from tests.wire.conftest import plane, snapshot

__all__ = ["plane", "snapshot"]
