"""Switchboard's settings with a django-q2 cluster as its manual has it, tuned where it costs most."""

from dashboard.settings import *  # noqa: F403

Q_CLUSTER = {
    "name": "bench",
    "workers": 2,
    "orm": "default",
    "save_limit": -1,  # keep no results: the default costs ten times the throughput
    "timeout": 60,
    "retry": 120,
    "max_attempts": 1,
    "ack_failures": True,
    "scheduler": False,
    "log_level": "WARNING",
}
