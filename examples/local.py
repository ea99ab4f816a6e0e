"""A database for the examples where there is none: `python local.py COMMAND…`.

Runs a command, or a shell, with $DATABASE_URL: an empty database on a PostgreSQL of its own, which
ends with the command. Our Python and its programs come first in $PATH.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from psycopg.conninfo import conninfo_to_dict

from advlock import embedded

with embedded.temporary() as server:
    url = "postgresql://{user}@/{dbname}?host={host}&port={port}".format(
        **conninfo_to_dict(server.dsn)
    )
    command = sys.argv[1:] or [os.environ.get("SHELL", "sh")]
    programs = str(Path(sys.executable).parent)
    path = os.pathsep.join((programs, os.environ.get("PATH", os.defpath)))
    env = os.environ | {"DATABASE_URL": url, "ADVLOCK_DSN": url, "PATH": path}
    sys.exit(subprocess.run(command, env=env, check=False).returncode)  # noqa: S603 - yours
