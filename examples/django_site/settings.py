"""The settings of the site."""

import os

from psycopg.conninfo import conninfo_to_dict

_where = conninfo_to_dict(os.environ["DATABASE_URL"])

SECRET_KEY = "an example's"  # noqa: S105
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = [
    "advlock.django",  # first: its `migrate` goes before any other
    "shop",
]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": _where.pop("dbname"),
        "OPTIONS": _where,
        "DISABLE_SERVER_SIDE_CURSORS": True,  # they do not work behind PgBouncer
    }
}
ADVLOCK = {"MIGRATE": True, "MIGRATE_WAIT": "10m"}
