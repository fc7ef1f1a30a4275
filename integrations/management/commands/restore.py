"""`manage.py restore SOURCE`: put a backup in the place of the database."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from integrations.backups.errors import BackupError
from integrations.backups.restore import Restored, check, restore
from integrations.management.commands.backup import add_keys_arguments, ask_passphrase, summary


class Command(BaseCommand):
    help = (
        "Put a backup in the place of the database, after everything was stopped. Unfinished messages are held until "
        "an operator retries or cancels them: they may have been delivered since the backup."
    )
    requires_system_checks: list[str] = []  # a database that is broken, or its keys missing, is what a restore is for

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("source", type=Path, help="folder that `backup` made")
        parser.add_argument("--check", action="store_true", help="only compare the backup with its checksums")
        parser.add_argument("--replace", action="store_true", help="replace a database that has data")
        add_keys_arguments(parser, "also restore the keys, with the passphrase that you are asked for")

    def handle(self, *_: Any, source: Path, keys: bool, passphrase_stdin: bool, **options: Any) -> None:
        try:
            if options["check"]:
                self.stdout.write(f"The backup is complete: {summary(check(source))}")
                return
            passphrase = ask_passphrase(passphrase_stdin, is_new=False) if keys else None
            self._report(restore(source, passphrase=passphrase, replace=options["replace"]))
        except BackupError as error:
            raise CommandError(str(error)) from None

    def _report(self, done: Restored) -> None:
        self.stdout.write(f"Restored: {summary(done.manifest)}")
        if done.kept:
            self.stdout.write(f"The database that was there is now {done.kept}; delete it when you no longer need it.")
        if done.keys:
            self.stdout.write(f"The keys are in {done.keys}.")
        if done.held:
            them = "unfinished message is" if done.held == 1 else "unfinished messages are"
            self.stdout.write(
                f"{done.held:,} {them} held, for they may have been delivered after the backup. Retry or cancel them "
                "in the console: Messages, is:held."
            )
        self.stdout.write(
            "Everyone signs in again. Accounts and tokens are those of the backup: delete again those deleted since."
        )
