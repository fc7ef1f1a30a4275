"""A Django project with an outbox, such as a team has that sends through Switchboard."""
