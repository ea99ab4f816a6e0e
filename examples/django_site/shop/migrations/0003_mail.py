"""Three customers, and a mail for each."""

from django.apps.registry import Apps
from django.db import migrations, models
from django.db.backends.base.schema import BaseDatabaseSchemaEditor


def write(apps: Apps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    """Write the mails."""
    customers = apps.get_model("shop", "Customer").objects.using(schema_editor.connection.alias)
    mails = apps.get_model("shop", "Mail").objects.using(schema_editor.connection.alias)
    for name in ("ada", "grace", "alan"):
        mails.create(customer=customers.create(email=f"{name}@example.com"))


class Migration(migrations.Migration):
    """Make the table, and put them in."""

    dependencies = (("shop", "0002_email_index"),)
    operations = (
        migrations.CreateModel(
            "Mail",
            [
                (
                    "id",
                    models.BigAutoField(
                        primary_key=True, serialize=False, auto_created=True, verbose_name="ID"
                    ),
                ),
                ("customer", models.ForeignKey("shop.Customer", models.CASCADE)),
                ("sent", models.BooleanField(default=False)),
            ],
        ),
        migrations.RunPython(write, migrations.RunPython.noop),
    )
