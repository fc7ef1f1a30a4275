from django.db import migrations, models


class Migration(migrations.Migration):
    """Let an operation index a field. Only the choices change, and no database knows them."""

    dependencies = [("integrations", "0007_deletions")]

    operations = [
        migrations.AlterField(
            "operation",
            "kind",
            models.CharField(
                choices=[
                    ("replay", "Replay"),
                    ("cancel", "Cancel"),
                    ("retry_now", "Retry Now"),
                    ("delete", "Delete"),
                    ("index", "Index"),
                ],
                max_length=9,
            ),
        ),
    ]
