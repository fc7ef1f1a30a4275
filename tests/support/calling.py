"""A program that calls the API."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from django.test import Client

from integrations.models import Token

ROOT = "/api/v1"
Answered = Any  # a response as Django's test client returns it, with .json() and .context


@dataclass
class Api:
    """A program that calls the API with one token."""

    token: Token
    secret: str

    def call(self, method: str, path: str, body: Any = None, **headers: str) -> Answered:
        raw = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.raw(method, path, raw, headers.pop("content_type", "application/json"), **headers)

    def raw(self, method: str, path: str, body: bytes, content_type: str, **headers: str) -> Answered:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return Client().generic(
            method,
            path if path.startswith("/api") else ROOT + path,
            body,
            content_type,
            headers={"Authorization": f"Bearer {self.secret}", **named},
        )

    def get(self, path: str, **headers: str) -> Answered:
        return self.call("GET", path, **headers)

    def post(self, path: str, body: Any = None, **headers: str) -> Answered:
        return self.call("POST", path, body, **headers)

    def patch(self, path: str, body: Any) -> Answered:
        return self.call("PATCH", path, body)

    def delete(self, path: str) -> Answered:
        return self.call("DELETE", path)


def is_problem(answer: Answered, status: int) -> dict[str, Any]:
    """The problem document of an answer that should be one."""
    assert answer.status_code == status, (answer.status_code, answer.content[:500])
    assert answer["Content-Type"] == "application/problem+json"
    document: dict[str, Any] = json.loads(answer.content)
    assert set(document) >= {"type", "title", "status", "detail"}
    assert document["status"] == status
    assert ("errors" in document) == (status == 422)
    return document
