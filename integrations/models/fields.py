"""Encryption at rest: the database and its backups never hold a secret in the clear."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import models
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models.expressions import Expression

if TYPE_CHECKING:
    TextField = models.TextField[Any, Any]
else:
    TextField = models.TextField


class EncryptedJSONField(TextField):
    """JSON, encrypted with the newest of SWITCHBOARD_ENCRYPTION_KEYS and readable with each of them (Fernet)."""

    def get_prep_value(self, value: Any) -> Any:
        return None if value is None else _cipher().encrypt(json.dumps(value).encode()).decode()

    def from_db_value(self, value: str | None, _expression: Expression, _connection: BaseDatabaseWrapper) -> Any:
        if value is None:
            return None
        try:
            return json.loads(_cipher().decrypt(value.encode()))
        except InvalidToken as error:
            raise ImproperlyConfigured(
                "A stored secret cannot be read with SWITCHBOARD_ENCRYPTION_KEYS: add the key that it was written with"
            ) from error


class Unreadable(Exception):
    """No key of this installation reads a stored text."""


def is_current(text: str) -> bool:
    """Return whether the newest key reads this stored text."""
    return _reads(_cipher_for((settings.ENCRYPTION_KEYS[0],)), text)


def is_readable(text: str, keys: Sequence[str]) -> bool:
    """Return whether one of these keys reads a stored text."""
    return _reads(_cipher_for(tuple(keys)), text)


def reencrypted(text: str) -> str:
    """Return the stored text, encrypted with the newest key. Raises Unreadable."""
    try:
        return _cipher().rotate(text.encode()).decode()
    except InvalidToken:
        raise Unreadable from None


def _reads(cipher: MultiFernet, text: str) -> bool:
    try:
        cipher.decrypt(text.encode())
    except InvalidToken:
        return False
    return True


def _cipher() -> MultiFernet:
    return _cipher_for(tuple(settings.ENCRYPTION_KEYS))


@lru_cache(maxsize=4)
def _cipher_for(keys: tuple[str, ...]) -> MultiFernet:
    return MultiFernet([Fernet(key) for key in keys])
