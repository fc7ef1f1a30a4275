"""`manage.py token NAME --role …`: an API token, printed alone on stdout, once."""

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


def lifetime(text: str) -> timedelta:
    """90d, 12h, 5m or 10s."""
    match = re.fullmatch(r"([1-9][0-9]{0,5})([dhms])", text)
    if match is None:
        raise ArgumentTypeError(f"{text!r} is no time span; write 90d, 12h, 5m or 10s")
    return timedelta(**{UNITS[match[2]]: int(match[1])})


class Command(BaseCommand):
    help = "Makes an API token and prints it, alone and only now."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("name", help="who or what will use it; it is named in the audit")
        parser.add_argument("--role", required=True, choices=Role.values)
        parser.add_argument("--expires", type=lifetime, metavar="90d|12h|5m|10s", help="left out: never")

    def handle(self, *_: Any, name: str, role: str, expires: timedelta | None, **__: Any) -> None:
        name = name.strip()
        if not 0 < len(name) <= NAME_LIMIT:
            raise CommandError(f"Give the token a name of 1 to {NAME_LIMIT} characters.")
        with transaction.atomic():
            token, secret = Token.objects.issue(name, Role(role), expires)
            facts = {"role": token.role, "prefix": token.prefix}
            AuditEntry.objects.record("command line", "token.created", token.name, after=facts)
        self.stdout.write(secret)
