"""Fareclass: service tiers for LLM inference."""

__version__ = "0.1.0"
