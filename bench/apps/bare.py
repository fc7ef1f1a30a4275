"""The yardstick of accepting: a bare Django view that makes one insert and answers, for granian as WSGI.

No middleware, no token, no rules, no idempotency; lasting connections, and SQLite as durable as Switchboard's.
BARE_DATABASE is a postgres:// URL or the path of a SQLite file.
"""

from __future__ import annotations

import json
import os
from urllib.parse import parse_qs, unquote, urlsplit

import django
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.db import connection
from django.http import HttpRequest, HttpResponse
from django.urls import path

TABLE = "CREATE TABLE IF NOT EXISTS bare (id {serial} PRIMARY KEY, service text NOT NULL, body text NOT NULL)"
SQLITE = {
    "transaction_mode": "IMMEDIATE",
    "timeout": 20,
    "init_command": "PRAGMA journal_mode=WAL;PRAGMA synchronous=FULL;PRAGMA cache_size=-20000",
}


def database(where: str) -> dict[str, object]:
    if not where.startswith("postgres"):
        return {"ENGINE": "django.db.backends.sqlite3", "NAME": where, "OPTIONS": SQLITE, "CONN_MAX_AGE": None}
    url = urlsplit(where)
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": url.path.lstrip("/"),
        "USER": url.username or "",
        "HOST": unquote(parse_qs(url.query).get("host", [url.netloc.rpartition("@")[2].partition(":")[0]])[0]),
        "CONN_MAX_AGE": None,
    }


def insert(request: HttpRequest) -> HttpResponse:
    sent = json.loads(request.body)
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO bare (service, body) VALUES (%s, %s) RETURNING id", [sent["service"], json.dumps(sent["body"])]
        )
        (key,) = cursor.fetchone()
    answer = json.dumps({"id": key}).encode()
    response = HttpResponse(answer, status=202, content_type="application/json")
    response["Content-Length"] = str(len(answer))
    return response


urlpatterns = [path("insert", insert)]
settings.configure(
    SECRET_KEY="bare",
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    MIDDLEWARE=[],
    DATABASES={"default": database(os.environ["BARE_DATABASE"])},
)
django.setup()
application = get_wsgi_application()

if __name__ == "__main__":
    with connection.cursor() as cursor:
        serial = "bigserial" if connection.vendor == "postgresql" else "integer"
        cursor.execute(TABLE.format(serial=serial))
