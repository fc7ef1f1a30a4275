"""The processes that deliver messages: supervisor → django-q2 workers (tasks) → pump lanes → one call each."""
