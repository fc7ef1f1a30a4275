"""`manage.py services apply FILE` and `export`: registrations as a file that can be kept in version control."""

from __future__ import annotations

import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from integrations.registration import services_file
from integrations.registration.services_file import InvalidFile, PlannedChange

SIGNS = {"registered": "+", "changed": "~", "deleted": "-", "kept": "!"}


class Command(BaseCommand):
    help = "Registers and changes services as a file says, or writes that file. Secrets never stand in it."

    def add_arguments(self, parser: CommandParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True)
        apply = actions.add_parser("apply", help="bring the services in line with a file, all or nothing")
        apply.add_argument("file", help="YAML; - reads the standard input")
        apply.add_argument("--dry-run", action="store_true", help="say what would change, and change nothing")
        apply.add_argument(
            "--prune",
            action="store_true",
            help="delete what the file no longer names: services that a file registered, once nothing of theirs is "
            "unfinished, and endpoints",
        )
        export = actions.add_parser("export", help="write the services as such a file")
        export.add_argument("names", nargs="*", metavar="NAME", help="only these; left out: all")

    def handle(self, *_: Any, action: str, **options: Any) -> None:
        try:
            if action == "apply":
                self._apply(options["file"], dry_run=options["dry_run"], prune=options["prune"])
            else:
                self.stdout.write(services_file.export(options["names"]), ending="")
        except InvalidFile as broken:
            nothing = "Nothing was changed." if action == "apply" else ""
            raise CommandError("\n".join((*broken.faults, nothing)).strip()) from None

    def _apply(self, file: str, *, dry_run: bool, prune: bool) -> None:
        changes = services_file.apply(self._read(file), os.environ, actor="command line", dry_run=dry_run, prune=prune)
        for change in changes:
            if sign := SIGNS.get(change.verb):
                self.stdout.write(f"{sign} {change.name}: {change.verb}")
                for detail in change.details:
                    self.stdout.write(f"    {detail}")
        self.stdout.write(f"{_summary(changes)}{' This was a dry run: nothing is changed.' if dry_run else ''}")

    def _read(self, file: str) -> str:
        try:
            raw = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
            return raw.decode("utf-8-sig")
        except OSError as error:
            raise CommandError(f"{file} cannot be read: {error.strerror}") from None
        except UnicodeDecodeError:
            raise CommandError(f"{file} is not UTF-8") from None


def _summary(changes: list[PlannedChange]) -> str:
    counts = Counter(change.verb for change in changes)
    return (
        ", ".join(f"{count} {verb}" for verb, count in counts.items()).capitalize() + "." if counts else "No services."
    )
