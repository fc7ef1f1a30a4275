from django.db import migrations, models

TABLES = ("tally", "tallyhour", "tallyday")


class Migration(migrations.Migration):
    """Count lost calls. By hand, because Django copies the whole table for a new column of SQLite. The default stays in
    the database, so that processes of the version before can still write counters.
    """

    dependencies = [("integrations", "0004_lineages")]

    operations = [
        migrations.RunSQL(
            f"ALTER TABLE integrations_{table} ADD COLUMN lost integer NOT NULL DEFAULT 0",
            f"ALTER TABLE integrations_{table} DROP COLUMN lost",
            state_operations=[migrations.AddField(table, "lost", models.IntegerField(db_default=0, default=0))],
        )
        for table in TABLES
    ]
