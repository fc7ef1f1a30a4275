"""The contents of a database: counts to compare, and its migrations."""

from __future__ import annotations

from django.db import connection
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.recorder import MigrationRecorder
from django.db.models import Count, Model

from integrations.models import Account, Attempt, Message, Service, Status, Token, schema


def counts() -> dict[str, int]:
    """Count the rows by which a person recognizes a database. Reads columns that every version has."""
    by_status = dict(Message.objects.order_by().values_list("status").annotate(count=Count("pk")))
    messages = {status.value: by_status.get(status.value, 0) for status in Status}
    others: dict[str, type[Model]] = {"services": Service, "attempts": Attempt, "accounts": Account, "tokens": Token}
    return {"messages": sum(messages.values()), **messages} | {
        name: model._default_manager.count() for name, model in others.items()
    }


def has_data() -> bool:
    """Whether the database holds anything that a person would miss."""
    tables = schema.own_tables()
    if schema.RESTORING in tables:
        return False  # half a restore
    kinds: tuple[type[Model], ...] = (Service, Message, Account)
    return any(model._meta.db_table in tables and model._default_manager.exists() for model in kinds)


def migrations() -> dict[str, str]:
    """The last applied migration of each app."""
    applied = MigrationRecorder(connection).applied_migrations()
    return {app: max(name for of, name in applied if of == app) for app in sorted({app for app, _ in applied})}


def unknown(migrations: dict[str, str]) -> list[str]:
    """Those of these migrations that this version does not have."""
    known = MigrationLoader(None).disk_migrations or {}
    return [f"{app}.{name}" for app, name in migrations.items() if (app, name) not in known]
