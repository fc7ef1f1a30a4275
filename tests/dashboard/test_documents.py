"""The documentation in the console, its links, and what the palette finds."""

from __future__ import annotations

import re

import pytest
from django.urls import URLPattern, get_resolver

from dashboard.presenters import documents
from integrations.models import Role
from tests.support.signed_in import a_service, browser, words

pytestmark = pytest.mark.django_db
NO_PART = {"docs", "docs-picture", "document", "logout", "login", "setup", "healthz", "readyz", "metrics", "view-save",
           "view-delete", "attempt-body", "theme"}  # fmt: skip


@pytest.mark.parametrize("name", sorted(documents.names()))
def test_every_link_of_a_document_leads_somewhere(name: str) -> None:
    shown = documents.document(name)
    assert shown is not None
    for target in re.findall(r'href="(/docs/[^"]*|#[^"]*)"', shown.html):
        address, _, anchor = target.partition("#")
        document = (
            documents.document(address.removeprefix("/docs/").strip("/") or documents.INDEX) if address else shown
        )
        assert document is not None, target
        assert not anchor or f'id="{anchor}"' in document.html, target
    for picture in re.findall(r'src="/docs/([^"]*)"', shown.html):
        assert picture in documents.pictures()


def test_every_page_links_to_a_part_that_exists() -> None:
    a_service()
    for pattern in get_resolver().url_patterns:
        if not isinstance(pattern, URLPattern) or (pattern.name or "_").startswith("_") or pattern.name in NO_PART:
            continue
        place = documents.place_of_page(pattern.name or "")
        assert place is not None, f"{pattern.name} has no part of the documentation"
        document = documents.document(place.document)
        assert document is not None
        assert f'id="{place.anchor}"' in document.html, place
    page = browser().get("/services/billing/breaker/").content.decode()
    assert "/docs/concepts/#circuit-breaker" in page


def test_a_document_is_a_page_and_a_stranger_reads_none() -> None:
    page = browser(Role.VIEWER).get("/docs/concepts/")
    assert "At least once" in words(page)
    assert page.content.decode().count("<h1") == 1
    assert browser(Role.VIEWER, "v2").get("/docs/overview.png")["Content-Type"] == "image/png"
    assert browser(Role.VIEWER, "v3").get("/docs/message-life.svg")["Content-Type"] == "image/svg+xml"


@pytest.mark.parametrize("address", ["nothing", "../README", "..%2f..%2fARCHITECTURE", "reference/../../pyproject"])
def test_only_documents_are_served(address: str) -> None:
    assert browser().get(f"/docs/{address}/").status_code == 404


def test_the_grammar_is_told_with_every_key() -> None:
    page = words(browser().get("/_p/help/search/"))
    for key in ("service:", "status:", "older:", "body.", "tag:"):
        assert key in page


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        ("pause", "Pause billing"),
        ("token", "Create a token"),
        ("retention", "Change the retention"),
        ("docs", "Documentation"),
        ("api", "API reference"),
        ("user", "Add a person"),
        ("sandbox", "Get started"),
        ("circuit", "Circuit breaker · Concepts docs"),
    ],
)
def test_the_palette_finds_acts_settings_and_docs(typed: str, found: str) -> None:
    a_service("billing")
    choices = browser(Role.ADMIN).get("/_p/palette/", {"q": typed}).json()["services"]
    assert found in [choice["name"] for choice in choices]


def test_the_palette_offers_nobody_what_they_may_not() -> None:
    a_service("billing")
    for role, missing in ((Role.VIEWER, "pause"), (Role.OPERATOR, "token"), (Role.OPERATOR, "delete")):
        choices = browser(role, f"{role}-{missing}").get("/_p/palette/", {"q": missing}).json()["services"]
        assert not [choice for choice in choices if choice["kind"] == "Action"], (role, missing)
