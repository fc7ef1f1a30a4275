"""Pages, exports and static files are compressed, and caching works as without compression."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client

from integrations.models import Message, Role, Token

GZIP = {"Accept-Encoding": "gzip, deflate, br"}
STYLES = "/static/console.css"


def body_of(answer: Any) -> bytes:
    return b"".join(answer.streaming_content) if answer.streaming else answer.content


def unpacked(answer: Any) -> bytes:
    assert answer["Content-Encoding"] == "gzip"
    assert "Accept-Encoding" in answer["Vary"]
    return gzip.decompress(body_of(answer))


def test_a_page_is_compressed_and_the_api_is_not(operator: Client) -> None:
    _, secret = Token.objects.issue("reader", Role.VIEWER, None)
    page, packed = operator.get("/services/new/"), operator.get("/services/new/", headers=GZIP)
    assert "Content-Encoding" not in page
    assert len(unpacked(packed)) == len(page.content) > 3 * int(packed["Content-Length"])
    answer = operator.get("/api/v1/openapi.json", headers=GZIP | {"Authorization": f"Bearer {secret}"})
    assert "Content-Encoding" not in answer


def test_responses_with_the_same_content_differ_in_length() -> None:
    client = Client()
    lengths = {len(body_of(client.get(STYLES, headers=GZIP))) for _ in range(20)}
    assert len(lengths) > 1  # against BREACH, which compares lengths


def test_an_export_is_compressed_while_it_is_written(viewer: Client, queue: Callable[..., Message]) -> None:
    queue()
    answer = viewer.get("/messages/export.ndjson", headers=GZIP)
    assert b'"service":"billing"' in unpacked(answer).replace(b" ", b"")


def test_a_panel_that_has_not_changed_is_still_204_and_empty(viewer: Client) -> None:
    panel = unpacked(viewer.get("/_p/services/", headers=GZIP)).decode()
    version = panel.partition('"v": "')[2].partition('"')[0]
    unchanged = viewer.get(f"/_p/services/?v={version}", headers=GZIP)
    assert unchanged.status_code == 204
    assert unchanged.content == b""
    assert "Content-Encoding" not in unchanged


def test_a_static_file_is_compressed_and_revalidated() -> None:
    client = Client()
    plain, packed = body_of(client.get(STYLES)), client.get(STYLES, headers=GZIP)
    assert unpacked(packed) == plain
    assert packed["Cache-Control"] == "max-age=60, public"
    for condition in ({"If-None-Match": packed["ETag"]}, {"If-Modified-Since": packed["Last-Modified"]}):
        unchanged = client.get(STYLES, headers=GZIP | condition)
        assert unchanged.status_code == 304
        assert body_of(unchanged) == b""
        assert "Content-Encoding" not in unchanged
        assert (unchanged["ETag"], unchanged["Vary"]) == (packed["ETag"], "Accept-Encoding")
    assert client.get(STYLES, headers=GZIP | {"If-None-Match": 'W/"of another version"'}).status_code == 200


def test_a_part_of_a_static_file_is_of_the_file_itself() -> None:
    client = Client()
    part = client.get(STYLES, headers=GZIP | {"Range": "bytes=0-9"})
    assert part.status_code == 206
    assert body_of(part) == body_of(client.get(STYLES))[:10]


@pytest.mark.parametrize("name", ["console.js", "live.js", "morph.js", "vendor/idiomorph/idiomorph.min.js"])
def test_scripts_are_served_as_they_are_written(name: str, settings: Any) -> None:
    source = settings.BASE_DIR / "static" / name
    assert body_of(Client().get(f"/static/{name}")) == source.read_bytes()
