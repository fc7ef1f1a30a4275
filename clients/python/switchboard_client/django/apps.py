from __future__ import annotations

from typing import Any

from django.apps import AppConfig
from django.conf import settings
from django.core.checks import Error, register


class OutboxConfig(AppConfig):
    name = "switchboard_client.django"
    label = "switchboard_outbox"
    verbose_name = "Switchboard outbox"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        register(check_settings)


def check_settings(**_: Any) -> list[Error]:
    """Fail before the first message does: after a commit, an error can only be logged."""
    given = getattr(settings, "SWITCHBOARD", None) or {}
    if given.get("url") and given.get("token"):
        return []
    hint = 'SWITCHBOARD = {"url": "https://switchboard.example.com", "token": …}'
    return [Error("The outbox needs an address and a token.", hint=hint, id="switchboard_outbox.E001")]
