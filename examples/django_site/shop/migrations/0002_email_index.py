"""An index on their addresses, while everybody goes on writing."""

from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models


class Migration(migrations.Migration):
    """Build it."""

    atomic = False
    dependencies = (("shop", "0001_customer"),)
    operations = (
        # What an interrupted build leaves behind is an invalid index of that name.
        migrations.RunSQL("DROP INDEX CONCURRENTLY IF EXISTS customer_email"),
        AddIndexConcurrently("customer", models.Index(fields=["email"], name="customer_email")),
    )
