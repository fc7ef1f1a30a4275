"""Log lines, and the same events as JSON."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

from integrations.logs import JsonFormatter, LineFormatter, line, write

ROOT = Path(__file__).resolve().parents[1]


def formatted(formatter: logging.Formatter, *records: logging.LogRecord) -> list[str]:
    return [text for record in records for text in formatter.format(record).split("\n")]


def logged(act: object) -> list[logging.LogRecord]:
    log, records = logging.getLogger("switchboard.test"), list[logging.LogRecord]()
    log.setLevel(logging.INFO)
    catcher = logging.Handler()
    catcher.emit = lambda record: records.append(record)  # type: ignore[method-assign]
    log.addHandler(catcher)
    act(log)  # type: ignore[operator]
    log.removeHandler(catcher)
    return records


def test_each_event_of_a_batch_is_a_json_object_with_its_facts() -> None:
    lines = [line("attempt", message="msg_1", duration=0.25, status=None), line("attempt", message="two words")]
    records = logged(lambda log: write(log, lines))
    first, second = map(json.loads, formatted(JsonFormatter(), *records))
    assert {**first, "time": ""} == {
        "time": "",
        "level": "info",
        "logger": "switchboard.test",
        "event": "attempt",
        "message": "msg_1",
        "duration": 0.25,
        "status": None,
    }
    assert second["message"] == "two words"
    assert formatted(LineFormatter(), *records)[0].endswith("attempt message=msg_1 duration=0.2500 status=-")


def test_a_traceback_and_another_librarys_record_are_one_json_object_each() -> None:
    def act(log: logging.Logger) -> None:
        log.warning("%s of %d\nlines", "two", 2)
        try:
            raise ValueError("broken")
        except ValueError:
            log.exception(line("turn failed", worker=7))

    foreign, ours = map(json.loads, formatted(JsonFormatter(), *logged(act)))
    assert foreign["event"] == "two of 2\nlines"
    assert (ours["event"], ours["worker"]) == ("turn failed", 7)
    assert "ValueError: broken" in ours["exception"]


def test_the_variable_chooses_the_format(tmp_path: Path) -> None:
    """And a wrong word is refused at start."""
    code = "import django; django.setup(); import logging; logging.getLogger('x').warning('hello')"
    chosen = {**os.environ, "DJANGO_SETTINGS_MODULE": "dashboard.settings", "SWITCHBOARD_DATA": str(tmp_path)}

    def run(word: str) -> str:
        environment = {**chosen, "SWITCHBOARD_LOG_FORMAT": word}
        return subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True
        ).stderr

    assert json.loads(run("json"))["event"] == "hello"
    assert "SWITCHBOARD_LOG_FORMAT must be line or json, not “xml”" in run("xml")
