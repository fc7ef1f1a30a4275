"""`manage.py token NAME --role …`: create an API token and print only it on stdout, once."""

from __future__ import annotations

import re
from argparse import ArgumentTypeError
from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import transaction

from integrations.models import AuditEntry, Role, Token

UNITS = {"d": "days", "h": "hours", "m": "minutes", "s": "seconds"}
NAME_LIMIT = 100


def lifetime(text: str) -> timedelta | None:
    """Parse 90d, 12h, 5m or 10s, or None for never."""
    if text == "never":
        return None
    match = re.fullmatch(r"([1-9][0-9]{0,5})([dhms])", text)
    if match is None:
        raise ArgumentTypeError(f"{text!r} is not a duration; write 90d, 12h, 5m, 10s or never")
    return timedelta(**{UNITS[match[2]]: int(match[1])})


class Command(BaseCommand):
    help = "Create an API token and print it. It cannot be shown again."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("name", help="program that will use the token; shown in the audit log")
        parser.add_argument("--role", required=True, choices=Role.values)
        parser.add_argument(
            "--expires",
            type=lifetime,
            default=Token.objects.DEFAULT_LIFETIME,
            metavar="90d|12h|5m|10s|never",
            help="default: 365d",
        )

    def handle(self, *_: Any, name: str, role: str, expires: timedelta | None, **__: Any) -> None:
        name = name.strip()
        if not 0 < len(name) <= NAME_LIMIT:
            raise CommandError(f"The name must be 1 to {NAME_LIMIT} characters.")
        with transaction.atomic():
            token, secret = Token.objects.issue(name, Role(role), expires)
            facts = {"role": token.role, "prefix": token.prefix}
            AuditEntry.objects.record("command line", "token.created", token.name, after=facts)
        self.stdout.write(secret)
