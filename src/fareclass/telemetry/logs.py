"""The log: JSON lines, from which secrets are cut out (R51)."""

import json
import logging
import re
import sys
import time
from typing import TextIO

_SECRET = re.compile(r"(fc_\w+?_)[a-z2-7]{16,}")
"""A bearer token, as `core.tokens` makes them: what proves it is cut out of every log line."""


class JsonFormatter(logging.Formatter):
    """One log record as one line of JSON: time, level, logger, message, what was given as `extra`, the traceback."""

    def __init__(self) -> None:
        super().__init__()
        self._own = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message"}

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {name: value for name, value in vars(record).items() if name not in self._own}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return _SECRET.sub(r"\1…", json.dumps(line, default=str))


def log_as_json(level: int = logging.INFO, stream: TextIO = sys.stderr) -> None:
    """Make every logger of this process write JSON lines (R51). Libraries speak from `WARNING` on."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("fareclass").setLevel(level)
