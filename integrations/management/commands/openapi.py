"""`manage.py openapi`: print the API's OpenAPI document, which is kept as `docs/openapi.json`."""

from __future__ import annotations

import json
from typing import Any

from django.core.management.base import BaseCommand

from integrations.api import api


class Command(BaseCommand):
    help = "Print the API's OpenAPI document. The output changes only when the code does."
    requires_system_checks = ()

    def handle(self, *_: Any, **__: Any) -> None:
        self.stdout.write(json.dumps(api.get_openapi_schema(), indent=2, ensure_ascii=False, default=str))
