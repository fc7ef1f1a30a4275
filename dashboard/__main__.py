"""The command line: `switchboard` when installed, `manage.py` in a checkout. `help` lists the commands."""

import os
import sys

from integrations import __version__


def main() -> None:
    os.umask(0o077)  # database, journals and keys are for this account alone
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "dashboard.settings")
    from django.core.exceptions import ImproperlyConfigured
    from django.core.management import execute_from_command_line

    if sys.argv[1:] in (["--version"], ["version"]):  # by itself Django prints its own
        print(f"switchboard {__version__}")
        return
    try:
        execute_from_command_line(sys.argv)
    except ImproperlyConfigured as error:
        sys.exit(f"Switchboard cannot start: {error}")


if __name__ == "__main__":
    main()
