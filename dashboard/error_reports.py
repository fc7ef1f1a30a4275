"""What Django's error page, shown with SWITCHBOARD_DEBUG only, leaves out of the settings that it lists."""

from __future__ import annotations

import re

from django.views.debug import SafeExceptionReporterFilter


class ReporterFilter(SafeExceptionReporterFilter):
    """Django hides settings by their names. These are addresses, which contain a password."""

    hidden_settings = re.compile(
        f"{SafeExceptionReporterFilter.hidden_settings.pattern}|DATABASE_URL|DIRECT_URL|REDIS|LOCATION", re.IGNORECASE
    )
