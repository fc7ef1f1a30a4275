"""Pages about services, one file per screen."""

from dashboard.views.services import actions, calls, detail, edit, endpoints, list, preview, signing, versions

__all__ = ["actions", "calls", "detail", "edit", "endpoints", "list", "preview", "signing", "versions"]
