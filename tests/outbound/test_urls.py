"""Paths below a service's address: none may leave it, however its dots are written."""

from __future__ import annotations

import pytest

from integrations.outbound.urls import path_refusal

LEAVING = (
    "/..",
    "/../admin",
    "/a/../../admin",
    "/a/..",
    "/%2e%2e/admin",
    "/%2E./admin",
    "/.%2e/admin",
    "/..;/admin",
    "/..;a=1/admin",
    "/%2e%2e%3b/admin",
    "/..%2fadmin",
    "/..%2Fadmin",
    "/a%2f..%2f..%2fadmin",
    "/..%5cadmin",
    "/..\\admin",
    "/%252e%252e/admin",
    "/%25252e%25252e%25252fadmin",
    "/%c0%ae%c0%ae/admin",
    "/..%c0%afadmin",
    "/..%00/admin",
    "/..%09/admin",
    "/%2525252525252525252e./admin",
)
STAYING = (
    "/",
    "/a.b/c..d/...",
    "/.well-known/x",
    "/projects/group%2Fname",
    "/100%25",
    "/100%",
    "/a;b=1",
    "/größe",
    "/%E2%82%AC",
    "//double",
)


@pytest.mark.parametrize("path", LEAVING)
def test_a_path_that_leaves_the_address_is_refused(path: str) -> None:
    assert path_refusal(path)


@pytest.mark.parametrize("path", STAYING)
def test_a_path_that_stays_is_accepted(path: str) -> None:
    assert path_refusal(path) is None


@pytest.mark.parametrize("path", ["", "a", "/a b", "/a\r\nx", "/a#b", "/a?b", "/a\x7f"])
def test_a_path_that_is_no_path_is_refused(path: str) -> None:
    assert path_refusal(path)
