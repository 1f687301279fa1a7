"""Escape control characters in log lines, so that no name, id or path can imitate a log line."""

from __future__ import annotations

import copy
import logging
import re
from typing import Any

from uvicorn.config import LOGGING_CONFIG
from uvicorn.logging import AccessFormatter, DefaultFormatter

# C0 and C1 controls, DEL, and what Unicode calls a line or paragraph separator or turns the direction of text.
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def escape(text: str) -> str:
    r"""Escape control characters.
    >>> escape("a\nb")
    'a\\nb'
    """
    return CONTROL.sub(lambda found: found[0].encode("unicode_escape", "surrogatepass").decode(), text)


def _plain(record: logging.LogRecord) -> logging.LogRecord:
    """Return the record with its text formatted and escaped."""
    record = copy.copy(record)
    record.msg, record.args = escape(record.getMessage()), None
    return record


class LineFormatter(DefaultFormatter):
    """Writes each log record as one line. The lines of a traceback are indented, so no such line looks like a
    record."""

    def format(self, record: logging.LogRecord) -> str:
        return super().format(_plain(record))

    def formatException(self, ei: Any) -> str:  # noqa: N802
        return "\n".join("    " + escape(line) for line in super().formatException(ei).split("\n"))


def logging_config() -> dict[str, Any]:
    """Return a configuration of logging: uvicorn's, with the formatter of this module, without uvicorn's messages of
    start and end."""
    config = copy.deepcopy(LOGGING_CONFIG)
    config["formatters"]["default"]["()"] = LineFormatter
    config["formatters"]["access"]["()"] = AccessFormatter  # it quotes paths itself
    config["loggers"]["corerec"] = {"handlers": ["default"], "level": "INFO", "propagate": False}
    config["loggers"]["uvicorn"]["level"] = "WARNING"
    config["loggers"]["uvicorn.error"]["level"] = "WARNING"
    config["loggers"]["asyncio"] = {"handlers": ["default"], "level": "WARNING", "propagate": False}
    return config
