"""`manage.py backup TARGET`: back up the database while everything runs."""

from __future__ import annotations

import os
import signal
import sys
from argparse import SUPPRESS
from contextlib import suppress
from getpass import getpass
from pathlib import Path
from typing import Any, NoReturn

from django.core.management.base import BaseCommand, CommandError, CommandParser

from integrations.backups import schedule
from integrations.backups.errors import BackupError
from integrations.backups.manifest import Manifest
from integrations.backups.take import take
from integrations.models import BackupSchedule, schema
from integrations.workers.supervisor import die_with_parent

NICE = 10  # a backup by schedule leaves the processor to the lanes


class Command(BaseCommand):
    help = "Back up the database into a new folder, with a manifest of its checksums, while everything runs."
    requires_system_checks: list[str] = []  # wrong settings must not prevent a backup

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("target", type=Path, nargs="?", help="folder to make, such as /backups/2026-11-27")
        parser.add_argument("--scheduled", action="store_true", help=SUPPRESS)  # started by `up`: as the settings say
        add_keys_arguments(parser, "also back up the keys, encrypted with a passphrase that you are asked for")

    def handle(
        self, *_: Any, target: Path | None, scheduled: bool, keys: bool, passphrase_stdin: bool, **__: Any
    ) -> None:
        signal.signal(signal.SIGTERM, _stop)  # so that nothing of it is left
        try:
            if scheduled:
                die_with_parent()
                with suppress(OSError):  # a sandbox may forbid it
                    os.nice(NICE)
                schedule.run()
                return
            if target is None:
                raise CommandError("Name the folder to make: backup TARGET.")
            backup = take(target, ask_passphrase(passphrase_stdin, is_new=True) if keys else None)
            if BackupSchedule._meta.db_table in schema.own_tables():  # not before the first migration to this version
                schedule.note(backup)
        except BackupError as error:
            raise CommandError(str(error)) from None
        self.stdout.write(f"{backup.folder}: {summary(backup.manifest)}; it took {backup.seconds:.1f} s")
        if not keys:
            self.stdout.write("The keys are not in it: without them its secrets cannot be read. Keep them elsewhere.")


def _stop(*_: object) -> NoReturn:
    sys.exit("stopped")


# ---- shared with `restore` ------------------------------------------------------------------------------------------
def add_keys_arguments(parser: CommandParser, text: str) -> None:
    parser.add_argument("--keys", action="store_true", help=text)
    parser.add_argument("--passphrase-stdin", action="store_true", help="with --keys: read the passphrase from stdin")


def ask_passphrase(from_stdin: bool, *, is_new: bool) -> str:
    if from_stdin:
        return sys.stdin.readline().rstrip("\r\n")
    passphrase = getpass("Passphrase for the keys: ")
    if is_new and getpass("Again: ") != passphrase:
        raise CommandError("The two passphrases differ.")
    return passphrase


def summary(manifest: Manifest) -> str:
    counts, keys = manifest.counts, ", with keys" if manifest.has_keys else ""
    messages, services = counts.get("messages", 0), counts.get("services", 0)
    unfinished = counts.get("pending", 0) + counts.get("delivering", 0)
    return (
        f"{messages:,} message{'' if messages == 1 else 's'} ({unfinished:,} unfinished) and {services:,} "
        f"service{'' if services == 1 else 's'} as of {manifest.taken_at:%F %T} UTC, "
        f"{manifest.size / 1024**2:,.1f} MiB{keys}"
    )
