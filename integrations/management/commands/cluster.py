from typing import Any

from django.core.management.base import BaseCommand


class Command(BaseCommand):
    help = "The worker processes of one `manage.py up`; started by it."
    requires_system_checks: list[str] = []  # `manage.py up` has made them

    def handle(self, *args: Any, **options: Any) -> None:
        from integrations.workers.supervisor import run_cluster

        run_cluster()
