from typing import Any

from django.core.management.base import BaseCommand


class Command(BaseCommand):
    help = "The worker processes of one `manage.py up`; started by it."

    def handle(self, *args: Any, **options: Any) -> None:
        from integrations.workers import run_cluster

        run_cluster()
