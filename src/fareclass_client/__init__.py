"""Escalation for an unmodified OpenAI SDK: after throttles or slow answers, the next requests go as a better tier."""

from fareclass_client.rules import Rules
from fareclass_client.transport import AsyncEscalatingTransport, EscalatingTransport

__all__ = ["AsyncEscalatingTransport", "EscalatingTransport", "Rules"]
