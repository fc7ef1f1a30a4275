"""Errors that a caller can correct. The API and the console turn them into words and status codes."""

from __future__ import annotations


class Invalid(Exception):
    """A value breaks a rule. ``errors`` holds pairs of the field's location and the words for the person."""

    def __init__(self, *errors: tuple[tuple[str, ...], str]) -> None:
        super().__init__("; ".join(words for _, words in errors))
        self.errors = errors


class Conflict(Exception):
    """The requested action does not fit the present state of the object; the message says which state that is."""


class TooLarge(ValueError):
    """A value exceeds a size limit (HTTP 413)."""
