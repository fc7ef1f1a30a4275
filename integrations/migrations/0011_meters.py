from django.db import migrations, models


class Migration(migrations.Migration):
    """A new table, which processes of the version before neither read nor write."""

    dependencies = [("integrations", "0010_backups")]

    operations = [
        migrations.CreateModel(
            name="Meter",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("name", models.CharField(max_length=30)),
                ("service_id", models.BigIntegerField()),
                ("label", models.CharField(max_length=100)),
                ("count", models.BigIntegerField(default=0)),
                ("seconds", models.FloatField(default=0)),
                *((f"bucket_{place}", models.BigIntegerField(default=0)) for place in range(16)),
            ],
            options={
                "constraints": [models.UniqueConstraint(fields=["name", "service_id", "label"], name="meter_of_key")],
            },
        ),
    ]
