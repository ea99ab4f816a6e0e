"""`claim(where=…)` takes literals only, as far as a type checker can tell."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "tests" / "typing" / "injection.py"


def test_sql_that_is_not_a_literal_is_a_type_error() -> None:
    """Each line that is marked is an error, and no other line is."""
    program = Path(sys.executable).with_name("pyrefly")
    options = ("--preset=strict", "--output-format=json", f"--search-path={ROOT / 'src'}")
    interpreter = f"--python-interpreter-path={sys.executable}"
    done = subprocess.run(
        [program, "check", *options, interpreter, SOURCE],
        check=False,
        capture_output=True,
        text=True,
        timeout=50,
    )
    found = {(error["line"], error["name"]) for error in json.loads(done.stdout)["errors"]}
    lines = SOURCE.read_text().splitlines()
    marked = {number for number, line in enumerate(lines, 1) if line.endswith("# refused")}
    assert len(marked) == 3
    assert found == {(number, "no-matching-overload") for number in marked}, done.stdout
