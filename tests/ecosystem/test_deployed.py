"""Kubernetes, systemd, Docker, GitHub Actions: the examples' command lines, started for real."""

from __future__ import annotations

import http.client
import os
import re
import shlex
import shutil
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cli.helpers import Cli, environment
from cli.test_pid_1 import UNSHARE, wrapper
from psycopg.conninfo import conninfo_to_dict
from waiting import eventually

from .deploy_files import EXAMPLES, command_lines, container, deploy_step, setting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cli.helpers import Running
    from psycopg import Connection

pytestmark = pytest.mark.newest
REPORT = EXAMPLES / "systemd" / "report.service"
NOBODY = 10001  # the image's user
# The user of a container has a file system of its own. Here it has root's, and may read it.
AS_NOBODY = (
    *("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"),
    *("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"),
)

LOCK = "SELECT pg_advisory_lock(hashtextextended(%s, 0))"
UNLOCK = "SELECT pg_advisory_unlock(hashtextextended(%s, 0))"


@pytest.fixture
def place(tmp_path: Path) -> Callable[[str, str], Path]:
    """Make a program in the directory in which the examples' commands are started."""

    def make(name: str, script: str) -> Path:
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return path

    return make


@pytest.fixture
def cli(dsn: str, tmp_path: Path) -> Iterator[Cli]:
    """The command, with the test's database, and with the test's own programs before others."""
    started = Cli(dsn)
    programs = (str(tmp_path), str(Path(sys.executable).parent), started.env["PATH"])
    started.env["PATH"] = os.pathsep.join(programs)
    yield started
    started.close()


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """The name of a lock that no other test uses."""
    return f"deployed-{request.node.name}"


def line(example: str, name: str) -> list[str]:
    """A command line of an example, with another lock and a port that is free."""
    words = [*command_lines()[example]]
    words[words.index("--") - 1] = name
    text = "\0".join(words).replace("--probe-port=8080", "--probe-port=127.0.0.1:0")
    return text.replace("--probe-port\x008080", "--probe-port\x00127.0.0.1:0").split("\0")


def status(where: str, path: str) -> int:
    """What a probe is answered with."""
    connection = http.client.HTTPConnection(where, timeout=5)
    connection.request("GET", path)
    return connection.getresponse().status


def probed(pod: Running) -> str:
    """Where its probes are answered, as it says."""
    (found,) = re.findall(r"^advlock: answering probes on http://([\d.:]+)/", pod.said())
    return str(found)


def test_all_pods_are_ready_and_the_leader_has_the_label(
    cli: Cli, name: str, tmp_path: Path, place: Callable[[str, str], Path]
) -> None:
    """Two pods: both are alive and ready, the one that leads is labelled, and then the other."""
    asked = tmp_path / "asked"
    place("kubectl", f'echo "$@" >> {asked}')
    place("scheduler.sh", "exec sleep 60")
    probes = ("livenessProbe", "readinessProbe")
    alive, ready = (container("leader")[probe]["httpGet"]["path"] for probe in probes)
    pods = []
    for pod in ("one", "two"):
        env = cli.env | {"POD_NAME": pod}
        pods.append(cli.start(*line("leader-scheduler", name), cwd=tmp_path, env=env))
        where = probed(pods[-1])
        eventually(lambda where=where: status(where, ready) == 200)
        assert status(where, alive) == 200
        eventually(lambda: asked.exists() and "pod one role=leader" in asked.read_text())
    # Were this the readiness probe, an update would wait for the pod that waits for the update.
    assert status(where, "/leader") == 503
    pods[0].send(signal.SIGTERM)
    assert pods[0].code() == 128 + signal.SIGTERM
    eventually(lambda: "pod two role=leader" in asked.read_text())
    clear = "label pods --selector app=scheduler,role=leader role-"
    assert asked.read_text().splitlines() == [
        *(clear, "label pod one role=leader --overwrite", "label pod one role-"),
        *(clear, "label pod two role=leader --overwrite"),
    ]
    pods[1].send(signal.SIGTERM)
    assert pods[1].code() == 128 + signal.SIGTERM


def test_a_job_that_runs_elsewhere_is_no_failure(
    cli: Cli, name: str, admin: Connection[Any], tmp_path: Path, place: Callable[[str, str], Path]
) -> None:
    """A CronJob's pod succeeds, and a unit ends as its SuccessExitStatus says; else both run it."""
    place("report.sh", "echo reporting")
    unit = [word.replace("/srv/app/", "./") for word in line("report", name)]

    def run(*words: str) -> tuple[int, str]:
        code, out, _ = cli(*words, cwd=tmp_path)
        return code, out

    job = line("cronjob-report", name)
    admin.execute(LOCK, [name])
    assert run(*job) == (0, "")
    assert run(*unit) == (os.EX_TEMPFAIL, "")
    assert setting(REPORT, "SuccessExitStatus") == "TEMPFAIL"
    admin.execute(UNLOCK, [name])
    assert run(*job) == run(*unit) == (0, "reporting\n")


@pytest.mark.parametrize("mode", [0o400, 0o440, 0o444], ids=oct)
def test_a_service_file_is_read_whatever_its_mode(
    dsn: str, name: str, tmp_path: Path, place: Callable[[str, str], Path], mode: int
) -> None:
    """As systemd (0440, with an ACL), Docker (0444) and Kubernetes make files with secrets.

    libpq ignores a *password* file of such a mode, and says so.
    """
    place("report.sh", "echo reporting")
    given = conninfo_to_dict(dsn)
    service = tmp_path / "pg_service.conf"
    shown = (REPORT.parent / service.name).read_text().splitlines()
    (section,) = (line for line in shown if line.startswith("["))
    service.write_text("\n".join([section, *(f"{key}={value}" for key, value in given.items())]))
    passwords = tmp_path / "pgpass"
    passwords.write_text("*:*:*:*:secret\n")
    for path in (service, passwords):
        path.chmod(mode)

    cli = Cli(dsn)
    told = shlex.split(setting(REPORT, "Environment").replace("%d", str(tmp_path)))
    cli.env = environment("") | dict(word.split("=", 1) for word in told)
    del cli.env["ADVLOCK_DSN"]
    words = [word.replace("/srv/app/", "./") for word in line("report", name)]
    env = cli.env | {"PGPASSFILE": str(passwords)}
    code, out, err = cli(*words, cwd=tmp_path, env=env)
    assert (code, out) == (0, "reporting\n"), err
    assert ("has group or world access" in err) == (mode != 0o400)
    assert "secret" not in err


@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("setpriv") is None, reason="needs root, to give it up"
)
def test_the_container(cli: Cli, name: str, tmp_path: Path) -> None:
    """As PID 1 and somebody who is not root: it leads, and `docker stop` ends it in good order."""
    shutil.copy(EXAMPLES / "docker" / "scheduler.sh", tmp_path)
    words = line("compose", name)
    started = cli.start(*words, prefix=(*UNSHARE, *AS_NOBODY), cwd=tmp_path)
    assert started.line() == "leading"
    first = wrapper(started)
    assert f"\nUid:\t{NOBODY}\t{NOBODY}" in Path(f"/proc/{first}/status").read_text()
    os.kill(first, signal.SIGTERM)
    while (said := started.line()) == "leading":
        pass
    assert said == "stopping"
    assert started.code() == 0


@pytest.mark.parametrize("how", ["exec", "without"])
def test_a_cancelled_workflow_reaches_the_deployment(
    cli: Cli, name: str, tmp_path: Path, place: Callable[[str, str], Path], how: str
) -> None:
    """The step's process is `advlock`, so INT ends the deployment; without exec it is a shell."""
    script = deploy_step()["run"].replace("deploy-production", name)
    assert script.startswith("exec ")
    if how == "without":
        script = script.removeprefix("exec ")
    (tmp_path / "step.sh").write_text(script)
    place("advlock", f'exec {sys.executable} -m advlock "$@"')
    place("deploy.sh", "echo $PPID\n" + ("exec sleep 60" if how == "exec" else ""))
    # As GitHub's runner starts a step that names no shell.
    step = cli.program("bash", "-e", "step.sh", cwd=tmp_path)
    assert (int(step.line()) == step.pid) == (how == "exec")
    if how == "exec":
        step.send(signal.SIGINT)
    assert step.code() == (128 + signal.SIGINT if how == "exec" else 0)
