"""`manage.py migrate`: Django's command, while writers go on, and past a pooler. `up` runs it too, and so do the Jobs
of containers."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandError
from django.core.management.commands import migrate

from integrations.backups import upgrade
from integrations.backups.errors import BackupError
from integrations.models import sql


class Command(migrate.Command):
    def handle(self, *args: Any, **options: Any) -> None:
        def run() -> None:
            super(Command, self).handle(*args, **options)

        try:
            with sql.directly():
                if upgrade.missing_migrations()[0]:
                    upgrade.let_writers_go_on(run)
                else:
                    run()
        except BackupError as error:
            raise CommandError(str(error)) from error
