"""Failure groups in templates: the query for their messages, and notes with links."""

from __future__ import annotations

import re
from urllib.parse import urlencode

from django import template
from django.utils.html import escape, format_html
from django.utils.safestring import SafeString, mark_safe

from integrations.models import Failure

register = template.Library()

ADDRESS = re.compile(r"(https?://[^\s<>\"']+[^\s<>\"'.,;:!?)\]])")


@register.simple_tag
def messages_of(failure: Failure) -> str:
    """The query of the list of messages that finds those of the group, delivered ones too."""
    return urlencode({"q": f"failure:{failure.public_id}"})


@register.filter
def linked(text: str) -> SafeString:
    """Plain text, escaped, with its http and https URLs as links."""
    parts = ADDRESS.split(text)  # every second one is an address
    shown = (
        format_html('<a href="{0}" rel="noopener noreferrer nofollow">{0}</a>', part) if place % 2 else escape(part)
        for place, part in enumerate(parts)
    )
    return mark_safe("".join(shown))  # noqa: S308 - each part is escaped
