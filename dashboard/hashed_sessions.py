"""Django's sessions in the database, stored under a hash of their key. The key itself is in the browser's cookie alone.

With the keys in the clear, a reader of the database or a backup could use each session of the last two weeks. A key
has 165 random bits, so a plain hash keeps it safe and quick to look up.
"""

from __future__ import annotations

from base64 import urlsafe_b64encode
from hashlib import sha256
from typing import Any

from django.contrib.sessions.backends import db
from django.contrib.sessions.base_session import AbstractBaseSession
from django.utils import timezone

BYTES = 30  # of the hash: Django's column holds 40 characters


def stored_key(session_key: str) -> str:
    return urlsafe_b64encode(sha256(session_key.encode()).digest()[:BYTES]).decode()


class SessionStore(db.SessionStore):
    """Django's store, with the four look-ups by key replaced."""

    def _get_session_from_db(self) -> AbstractBaseSession | None:
        key = self.session_key
        found = key and self.model.objects.filter(session_key=stored_key(key), expire_date__gt=timezone.now()).first()
        if not found:
            self._session_key = None
        return found or None

    def exists(self, session_key: str | None = None) -> bool:
        return session_key is not None and super().exists(stored_key(session_key))

    def create_model_instance(self, data: dict[str, Any]) -> AbstractBaseSession:
        session = super().create_model_instance(data)
        session.session_key = stored_key(session.session_key)
        return session

    def delete(self, session_key: str | None = None) -> None:
        if key := session_key or self.session_key:
            super().delete(stored_key(key))
