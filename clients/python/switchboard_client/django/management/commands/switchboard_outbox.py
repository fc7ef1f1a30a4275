"""`manage.py switchboard_outbox`: hand over the messages of the outbox, until it is stopped."""

from __future__ import annotations

import random
import signal
import time
from datetime import timedelta
from threading import Event
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DEFAULT_DB_ALIAS, close_old_connections
from django.db.utils import InterfaceError, OperationalError

from switchboard_client import backoff
from switchboard_client.client import TIMEOUT, Client
from switchboard_client.django import outbox
from switchboard_client.errors import SwitchboardError, Unavailable

INTERVAL = 1.0  # seconds between two looks at an empty outbox
LONGEST_WAIT = 30.0  # seconds between two attempts while Switchboard is away
KEEP_DAYS = 7
CLEANED_EVERY = 3600.0  # seconds


class Command(BaseCommand):
    help = (
        "Hand over the messages of the outbox to Switchboard, oldest first, until it is stopped. Keep one running: it "
        "takes the messages that a crash or an outage left behind. Several do no harm."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--once",
            action="store_true",
            help="hand over the messages that wait now, then end; exit 1 if some are left",
        )
        parser.add_argument("--interval", type=float, default=INTERVAL, help="seconds between two looks; default 1")
        parser.add_argument("--keep-days", type=int, default=KEEP_DAYS, help="days to keep handed-over rows; default 7")
        parser.add_argument("--retry-refused", action="store_true", help="first, let refused messages wait again")
        parser.add_argument("--database", default=DEFAULT_DB_ALIAS, help="the database of the outbox")

    def handle(self, *_: Any, once: bool, interval: float, keep_days: int, database: str, **options: Any) -> None:
        if options["retry_refused"]:
            self.stdout.write(f"{outbox.retry_refused(database)} refused messages wait again.")
        with outbox.client(attempts=1, timeout=TIMEOUT) as switchboard:
            if once:
                try:
                    outbox.hand_over_waiting(switchboard, database)
                except SwitchboardError as error:
                    raise CommandError(f"{outbox.waiting(database).count()} messages still wait: {error}") from None
            else:
                self._run(switchboard, interval, timedelta(days=keep_days), database)

    def _run(self, switchboard: Client, interval: float, keep: timedelta, database: str) -> None:
        stopped = Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stopped.set())
        failures, cleaned_at = 0, float("-inf")
        while not stopped.is_set():
            pause = interval
            try:
                outbox.hand_over_waiting(switchboard, database)
                if failures:
                    self.stdout.write("Switchboard answers again; the outbox is empty.")
                failures = 0
                if time.monotonic() - cleaned_at > CLEANED_EVERY:
                    outbox.delete_handed_over(keep, database)
                    cleaned_at = time.monotonic()
            except (SwitchboardError, OperationalError, InterfaceError) as error:
                failures += 1
                asked = error.retry_after if isinstance(error, Unavailable) else None
                pause = backoff.delay(failures, interval, LONGEST_WAIT, asked, random.random())  # noqa: S311
                self.stderr.write(f"The outbox waits {pause:.1f} s: {error}")
                close_old_connections()  # a broken connection is replaced at the next look
            stopped.wait(pause)
