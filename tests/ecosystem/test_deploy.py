"""Kubernetes, systemd, Docker, GitHub Actions: the files that the how-tos show are right.

The programs that read these files are not all to be had in a test, so their own schemas judge the
files. Their command lines are started in test_deployed.py.
"""

from __future__ import annotations

import copy
import ctypes
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg_binary
import pytest

from advlock import cli as command_line
from advlock._duration import seconds

from .deploy_files import (
    COMPOSE,
    EXAMPLES,
    MANIFESTS,
    TIMERS,
    UNITS,
    WORKFLOW,
    command_lines,
    documents,
    instructions,
    pod_spec,
    setting,
    unknown,
)

pytestmark = pytest.mark.newest
ROOT = EXAMPLES.parent
VERIFY = ["systemd-analyze", "verify", "--man=no"]
needs_systemd = pytest.mark.skipif(shutil.which(VERIFY[0]) is None, reason="needs systemd-analyze")


# -- the command lines -----------------------------------------------------------------------------


def parsed(arguments: list[str]) -> dict[str, Any]:
    """What `advlock` understands by a command line."""
    name, *rest = arguments
    command = command_line.app.get_command(None, name)  # type: ignore[arg-type]
    assert command is not None, name
    with command.make_context(name, [*rest]) as context:
        return context.params


def test_our_command_lines_are_understood() -> None:
    """By the command itself."""
    for name, arguments in command_lines().items():
        assert parsed(arguments)["command"], name


def test_there_is_time_to_stop() -> None:
    """Whoever kills waits for longer than `advlock` gives the command and both hooks."""

    def needed(arguments: list[str]) -> float:
        given = parsed(arguments)
        return float(given["kill_after"] + 2 * given.get("hook_timeout", 0))

    lines = command_lines()
    (pod,) = filter(None, map(pod_spec, documents(EXAMPLES / "kubernetes" / "leader.yaml")))
    assert pod["terminationGracePeriodSeconds"] > needed(lines["leader-scheduler"]) == 40
    for unit in UNITS:
        assert float(setting(unit, "TimeoutStopSec")) >= needed(lines[unit.stem])
    (compose,) = documents(COMPOSE)
    grace = seconds(compose["services"]["scheduler"]["stop_grace_period"])
    assert grace > parsed(lines["compose"])["kill_after"]
    # Of a cancelled workflow: INT, 7.5 s, TERM, 2.5 s, KILL.
    assert parsed(lines["workflow"])["kill_after"] < 7.5


# -- what reads them -------------------------------------------------------------------------------


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_kubernetes_knows_every_field(path: Path) -> None:
    """Each field is in the API, in its place, of its type; none that is required is missing."""
    for document in documents(path):
        assert unknown(document) == []


def test_a_field_that_kubernetes_does_not_know_is_found() -> None:
    """The control: a misspelled, a misplaced, a missing one, and one of the wrong type."""
    (right,) = documents(EXAMPLES / "kubernetes" / "cronjob.yaml")
    wrong = copy.deepcopy(right)
    del wrong["spec"]["schedule"]
    wrong["spec"]["timezone"] = "UTC"
    wrong["spec"]["startingDeadlineSeconds"] = "10m"
    pod_spec(wrong)["containers"][0]["restartPolicy"] = "Never"  # type: ignore[index]
    del pod_spec(wrong)["containers"][0]["name"]  # type: ignore[index]
    where = "CronJob.spec.jobTemplate.spec.template.spec.containers[0].name"
    assert unknown(wrong) == [
        "CronJob.spec.schedule is missing",
        "CronJob.spec.startingDeadlineSeconds is no int",
        f"{where} is missing",
        "CronJob.spec.timezone is unknown",
    ]


@pytest.mark.parametrize(
    ("path", "schema"),
    [(COMPOSE, "compose-spec"), (WORKFLOW, "github-workflows")],
    ids=["compose", "workflow"],
)
def test_the_schema_is_kept(path: Path, schema: str) -> None:
    """The published schemas of Compose and of GitHub's workflows; they do see a wrong key."""
    # Only here, as the runs with other versions of the frameworks collect this without having it.
    import jsonschema  # noqa: PLC0415
    from check_jsonschema.builtin_schemas import get_builtin_schema  # noqa: PLC0415

    judge = jsonschema.validators.validator_for(known := get_builtin_schema(f"vendor.{schema}"))
    (document,) = documents(path)
    assert [*judge(known).iter_errors(document)] == []
    each = document.get("services", document.get("jobs"))
    next(iter(each.values()))["comand"] = ["true"]
    assert [*judge(known).iter_errors(document)]


def units(folder: Path) -> list[str]:
    """Copies of the units for this machine: verified is also whether there is such a program."""
    made = []
    for path in UNITS + TIMERS:
        text = path.read_text().replace("/srv/app/.venv/bin/advlock", shutil.which("true") or "")
        made.append(folder / path.name)
        made[-1].write_text(text)
    return [str(path) for path in made]


@needs_systemd
def test_systemd_has_nothing_to_say(tmp_path: Path) -> None:
    """No key, no value, no exit status that it does not know; and the daemon is locked up."""
    found = subprocess.run([*VERIFY, *units(tmp_path)], capture_output=True, check=True, text=True)
    assert found.stdout + found.stderr == ""
    limit = ["--offline=true", "--no-pager", "--threshold=20"]  # exposure in tenths, of 100
    scheduler = tmp_path / "scheduler.service"
    subprocess.run(
        ["systemd-analyze", "security", *limit, scheduler], stdout=subprocess.DEVNULL, check=True
    )


@needs_systemd
def test_systemd_says_what_is_wrong(tmp_path: Path) -> None:
    """The control."""
    (wrong,) = (path for path in units(tmp_path) if path.endswith("report.service"))
    text = Path(wrong).read_text()
    Path(wrong).write_text(text.replace("KillMode=mixed", "KillMode=kind\nKilMode=mixed"))
    found = subprocess.run([*VERIFY, wrong], capture_output=True, check=False, text=True)
    assert "kill mode" in found.stderr
    assert "'KilMode'" in found.stderr


@needs_systemd
def test_systemd_has_names_for_our_exit_codes() -> None:
    """The names in the units are the codes that are meant."""
    names = ["USAGE", "TEMPFAIL", "CONFIG"]
    shown = subprocess.run(
        ["systemd-analyze", "exit-status", *names], capture_output=True, check=True, text=True
    )
    assert re.findall(r"(\w+) +(\d+)", shown.stdout) == [
        *zip(names, ["64", "75", "78"], strict=True)
    ]


# -- certificates ----------------------------------------------------------------------------------


def test_certificates_are_where_the_driver_looks() -> None:
    """Psycopg's wheel has an OpenSSL of its own, to which `system` is a place that is not there."""
    files = [path for path in EXAMPLES.rglob("*") if path.suffix in {".conf", ".yaml", ".yml"}]
    for path in [*files, *(ROOT / "docs").glob("*.md")]:
        assert not re.search(r"(?m)(^|[?&])sslrootcert=system", path.read_text()), path
    (library,) = Path(psycopg_binary.__file__).parents[1].glob("psycopg_binary.libs/libcrypto-*")
    for name in ("X509_get_default_cert_file", "X509_get_default_cert_dir"):
        where = getattr(ctypes.CDLL(str(library)), name)
        where.restype = ctypes.c_char_p
        assert not Path(where().decode()).exists()


# -- the Dockerfile --------------------------------------------------------------------------------


def test_the_image_runs_the_command_as_nobody_in_particular() -> None:
    """No shell in front of it, and a number for the user, as `runAsNonRoot` asks for."""
    said = instructions()
    assert [word for word, _ in said if word == "FROM"] == ["FROM", "FROM"]
    final = dict(said)
    assert json.loads(final["ENTRYPOINT"]) == ["advlock"]
    uid, gid = map(int, final["USER"].split(":"))
    assert uid == gid
    for path in MANIFESTS:
        for pod in filter(None, map(pod_spec, documents(path))):
            assert pod["securityContext"]["runAsUser"] == uid


def test_what_is_copied_is_enough_to_build_from(tmp_path: Path) -> None:
    """A wheel comes out of the files that the first stage has, and `advlock` is in it."""
    copies = [rest for word, rest in instructions() if word == "COPY" and "--from" not in rest]
    for rest in copies:
        *sources, target = rest.split()
        for source in sources:
            place = tmp_path / (source if target == "./" else target)
            place.parent.mkdir(parents=True, exist_ok=True)
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, place, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / source, place)
    built = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel"],
        cwd=tmp_path,
        capture_output=True,
        check=False,
        text=True,
    )
    assert built.returncode == 0, built.stderr
    assert [*(tmp_path / "dist").glob("advlock-*.whl")]
