from django.db import migrations, models


class Migration(migrations.Migration):
    """Add the ports on which web servers listen: a new table, which processes of the version before do not read."""

    dependencies = [("integrations", "0005_tally_lost")]

    operations = [
        migrations.CreateModel(
            name="WebServer",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("cluster", models.CharField(max_length=100, unique=True)),
                ("host", models.CharField(max_length=200)),
                ("port", models.PositiveIntegerField()),
                ("addresses", models.JSONField(default=list)),
                ("announced_until", models.DateTimeField()),
            ],
        ),
    ]
