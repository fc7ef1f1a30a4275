"""Pages about messages, one file per screen."""

from dashboard.views.messages import actions, detail, downloads, export, list, replay, saved_views, send, suggestions

__all__ = ["actions", "detail", "downloads", "export", "list", "replay", "saved_views", "send", "suggestions"]
