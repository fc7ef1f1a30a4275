"""Pages about messages, one file per screen."""

from dashboard.views.messages import (
    actions,
    breakdown,
    changes,
    detail,
    downloads,
    export,
    fields,
    list,
    replay,
    saved_views,
    send,
    suggestions,
)

__all__ = [
    "actions",
    "breakdown",
    "changes",
    "detail",
    "downloads",
    "export",
    "fields",
    "list",
    "replay",
    "saved_views",
    "send",
    "suggestions",
]
