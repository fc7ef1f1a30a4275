"""`manage.py operator NAME --role … --password-stdin`: create an account without a prompt."""

from __future__ import annotations

import sys
from typing import Any

from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import transaction

from integrations.models import Account, AuditEntry, Role, Token

NAME_LIMIT = 150


class Command(BaseCommand):
    help = "Create an account. The password is read from the first line of standard input."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("name", help="user name")
        parser.add_argument("--role", required=True, choices=Role.values)
        parser.add_argument("--password-stdin", action="store_true", required=True, help="read the password from stdin")
        parser.add_argument("--replace", action="store_true", help="set role and password of an existing account")

    def handle(self, *_: Any, name: str, role: str, replace: bool, **__: Any) -> None:
        name = name.strip()
        if not 0 < len(name) <= NAME_LIMIT or not name.isprintable():
            raise CommandError(f"The name must be 1 to {NAME_LIMIT} printable characters.")
        account = Account.objects.filter(username=name).first()
        if account and not replace:
            raise CommandError(f"An account named {name} already exists; use --replace to set its role and password.")
        password = sys.stdin.readline().rstrip("\r\n")
        try:
            validate_password(password, account or Account(username=name))
        except ValidationError as error:
            raise CommandError(" ".join(error.messages)) from None
        with transaction.atomic():
            if account:
                account = Account.objects.select_for_update().get(pk=account.pk)
                account.role, account.is_active = role, True
                account.set_password(password)
                account.save()
                Token.objects.end_exceeding(account, "command line")
            else:
                account = Account.objects.register(name, password, Role(role))
            AuditEntry.objects.record(
                "command line", "person.changed" if replace else "person.created", name, after={"role": role}
            )
        self.stderr.write(f"{name} can sign in as {role}.")
