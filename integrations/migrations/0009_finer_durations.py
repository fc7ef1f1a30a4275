from django.db import migrations, models

TABLES = ("tally", "tallyhour", "tallyday")
COLUMNS = [f"within_{milliseconds}ms" for milliseconds in (1, 2, 3, 5, 7, 15, 30, 70, 150, 300, 700)]


class Migration(migrations.Migration):
    """Count durations of calls in finer steps, from 1 ms on. A new column counts a part of the calls that the next
    older column counts, so processes of the version before read and write the older columns as they did, and the
    default stays in the database for them. By hand, because Django copies the whole table for a new column of SQLite.
    """

    dependencies = [("integrations", "0008_index_operations")]

    operations = [
        migrations.RunSQL(
            f"ALTER TABLE integrations_{table} ADD COLUMN {column} integer NOT NULL DEFAULT 0",
            f"ALTER TABLE integrations_{table} DROP COLUMN {column}",
            state_operations=[migrations.AddField(table, column, models.IntegerField(db_default=0, default=0))],
        )
        for table in TABLES
        for column in COLUMNS
    ]
