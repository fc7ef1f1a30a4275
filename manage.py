#!/usr/bin/env python3
"""Switchboard's command line in a checkout; `manage.py help` lists the commands."""

from dashboard.__main__ import main

if __name__ == "__main__":
    main()
