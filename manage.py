#!/usr/bin/env python3
"""Django's command line for Switchboard; `manage.py help` lists the commands."""

import os
import sys


def main() -> None:
    os.umask(0o077)  # database, journals and keys are for this account alone
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "dashboard.settings")
    from django.core.exceptions import ImproperlyConfigured
    from django.core.management import execute_from_command_line

    try:
        execute_from_command_line(sys.argv)
    except ImproperlyConfigured as error:
        sys.exit(f"Switchboard cannot start: {error}")


if __name__ == "__main__":
    main()
