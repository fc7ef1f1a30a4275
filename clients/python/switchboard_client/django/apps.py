from django.apps import AppConfig


class OutboxConfig(AppConfig):
    name = "switchboard_client.django"
    label = "switchboard_outbox"
    verbose_name = "Switchboard outbox"
    default_auto_field = "django.db.models.BigAutoField"
