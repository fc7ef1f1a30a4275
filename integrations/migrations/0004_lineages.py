from django.db import migrations, models

# As COMPLETE_LINEAGES of integrations/models/message.py: one walk from the first messages, over replays alone.
COMPLETE = """WITH RECURSIVE lineage(id, first) AS (
    SELECT original.id, COALESCE(original.lineage_id, original.id)
    FROM integrations_message replay JOIN integrations_message original ON original.id = replay.replay_of_id
    WHERE replay.replay_of_id IS NOT NULL AND replay.lineage_id IS NULL
    AND (original.replay_of_id IS NULL OR original.lineage_id IS NOT NULL)
    UNION
    SELECT replay.id, lineage.first
    FROM lineage JOIN integrations_message replay ON replay.replay_of_id = lineage.id WHERE +replay.lineage_id IS NULL
)
UPDATE integrations_message SET lineage_id = lineage.first
FROM lineage WHERE integrations_message.id = lineage.id AND integrations_message.lineage_id IS NULL"""


class Migration(migrations.Migration):
    """Add the lineage of messages: nullable, so that processes of the version before can still write messages."""

    dependencies = [("integrations", "0003_message_created_by")]

    operations = [
        migrations.AddField("message", "lineage_id", models.BigIntegerField(null=True)),
        migrations.AddIndex(
            "message",
            models.Index(
                fields=["lineage_id"], name="message_lineage", condition=models.Q(lineage_id__isnull=False)
            ),
        ),
        migrations.AddIndex(
            "message",
            models.Index(
                fields=["created_at"],
                name="message_without_lineage",
                condition=models.Q(lineage_id__isnull=True, replay_of__isnull=False),
            ),
        ),
        migrations.RunSQL(COMPLETE, migrations.RunSQL.noop),
    ]
