"""Whether spans are to be made; apart from `traces`, whose libraries take their time to load."""

from collections.abc import Mapping


def wanted(environ: Mapping[str, str]) -> bool:
    """Whether somebody takes spans, and nothing forbids to make them: by OpenTelemetry's own variables."""
    off = (
        environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true" or environ.get("OTEL_TRACES_EXPORTER") == "none"
    )
    told = environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    return bool(told) and not off
