"""`manage.py openapi`: the API's description, as `docs/openapi.json` keeps it."""

from __future__ import annotations

import json
from typing import Any

from django.core.management.base import BaseCommand

from integrations.api import api


class Command(BaseCommand):
    help = "Prints the API's OpenAPI description; the same code prints the same bytes."
    requires_system_checks = ()

    def handle(self, *_: Any, **__: Any) -> None:
        self.stdout.write(json.dumps(api.get_openapi_schema(), indent=2, ensure_ascii=False, default=str))
