"""`manage.py services apply FILE` and `export`: services as a file for version control."""

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
    help = "Apply services from a file, or export them to one. The file never contains secrets."

    def add_arguments(self, parser: CommandParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True)
        apply = actions.add_parser("apply", help="apply a file to the services, all or nothing")
        apply.add_argument("file", help="YAML file; - reads standard input")
        apply.add_argument("--dry-run", action="store_true", help="list the changes without making them")
        apply.add_argument(
            "--prune",
            action="store_true",
            help="also delete endpoints and services that the file no longer names; only services that a file "
            "registered and that have no unfinished messages",
        )
        export = actions.add_parser("export", help="print the services as a file")
        export.add_argument("names", nargs="*", metavar="NAME", help="services to export; default: all")

    def handle(self, *_: Any, action: str, **options: Any) -> None:
        try:
            if action == "apply":
                self._apply(options["file"], dry_run=options["dry_run"], prune=options["prune"])
            else:
                self.stdout.write(services_file.export(options["names"]), ending="")
        except InvalidFile as invalid:
            nothing = "Nothing was changed." if action == "apply" else ""
            raise CommandError("\n".join((*invalid.problems, nothing)).strip()) from None

    def _apply(self, file: str, *, dry_run: bool, prune: bool) -> None:
        folder = Path() if file == "-" else Path(file).parent
        changes = services_file.apply(
            self._read(file), os.environ, actor="command line", folder=folder, dry_run=dry_run, prune=prune
        )
        for change in changes:
            if sign := SIGNS.get(change.verb):
                self.stdout.write(f"{sign} {change.name}: {change.verb}")
                for detail in change.details:
                    self.stdout.write(f"    {detail}")
        self.stdout.write(f"{_summary(changes)}{' Dry run: nothing was changed.' if dry_run else ''}")

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
