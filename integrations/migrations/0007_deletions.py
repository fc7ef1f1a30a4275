from django.db import migrations, models


class Migration(migrations.Migration):
    """Let a service be ``deleting``, and an operation delete it, pace itself and stop at a failure rate.

    Every column is nullable, so that processes of the version before can still write operations.
    """

    dependencies = [("integrations", "0006_web_servers")]

    operations = [
        migrations.AlterField(
            "service",
            "status",
            models.CharField(
                choices=[("active", "Active"), ("paused", "Paused"), ("deleting", "Deleting")],
                default="active",
                max_length=8,
            ),
        ),
        migrations.AlterField(
            "operation",
            "kind",
            models.CharField(
                choices=[("replay", "Replay"), ("cancel", "Cancel"), ("retry_now", "Retry Now"), ("delete", "Delete")],
                max_length=9,
            ),
        ),
        migrations.AddField("operation", "service_id", models.BigIntegerField(null=True)),
        migrations.AddField("operation", "stop_at_failure_rate", models.FloatField(null=True)),
        migrations.AddField("operation", "pace", models.JSONField(null=True)),
        migrations.AddField("runtime", "careful_until", models.DateTimeField(null=True)),
    ]
