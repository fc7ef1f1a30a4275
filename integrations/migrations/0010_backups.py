from django.db import migrations, models


class Migration(migrations.Migration):
    """A new table, which processes of the version before neither read nor write."""

    dependencies = [("integrations", "0009_finer_durations")]

    operations = [
        migrations.CreateModel(
            name="BackupSchedule",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("every_hours", models.PositiveSmallIntegerField(null=True)),
                ("folder", models.CharField(blank=True, max_length=500)),
                ("keep", models.PositiveSmallIntegerField(default=7)),
                ("changed_at", models.DateTimeField(null=True)),
                ("holder", models.CharField(blank=True, max_length=100)),
                ("lease_until", models.DateTimeField(null=True)),
                ("taken_at", models.DateTimeField(null=True)),
                ("place", models.CharField(blank=True, max_length=600)),
                ("size", models.PositiveBigIntegerField(default=0)),
                ("seconds", models.FloatField(default=0)),
                ("failed_at", models.DateTimeField(null=True)),
                ("failure", models.CharField(blank=True, max_length=500)),
                ("restored_at", models.DateTimeField(null=True)),
                ("restored_from", models.DateTimeField(null=True)),
            ],
        ),
    ]
