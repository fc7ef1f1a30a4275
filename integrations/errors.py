"""Errors that a caller can correct. The API and the console turn them into texts and status codes."""

from __future__ import annotations


class Invalid(Exception):
    """A value breaks a rule. ``errors`` holds pairs: the location of the field, and the text for the person."""

    def __init__(self, *errors: tuple[tuple[str, ...], str]) -> None:
        super().__init__("; ".join(text for _, text in errors))
        self.errors = errors


class Conflict(Exception):
    """The requested action does not fit the current state of the object. The text names that state."""


class TooLarge(ValueError):
    """A value exceeds a size limit (HTTP 413)."""
