"""Log lines: one line per event, `key=value`, whatever text an upstream puts into a value."""

from __future__ import annotations

import json
import logging
import re
from datetime import UTC, datetime


def line(event: str, **facts: object) -> str:
    """`event key=value …`, the same keys each time; a value with spaces or control characters is quoted as JSON."""
    return " ".join([event, *(f"{key}={_word(value)}" for key, value in facts.items())])


PLAIN = re.compile(r"[!#-~]+")  # printable ASCII without spaces and quotation marks


def _word(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4f}"
    text = str(value)
    return text if PLAIN.fullmatch(text) else json.dumps(text)


class LineFormatter(logging.Formatter):
    """Time, level, logger, message; line ends inside a message are made visible, so one event stays one line."""

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        message = record.getMessage().replace("\r", "\\r").replace("\n", "\\n")
        text = f"{moment} {record.levelname.lower()} {record.name} {message}"
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        return text
