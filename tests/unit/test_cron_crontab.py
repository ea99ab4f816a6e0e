"""Crontabs: what cron means by them, and what one cron or the other would misread."""

from __future__ import annotations

import pytest

from advlock._cron._crontab import read_crontab
from advlock._cron._files import read_jobs
from advlock._cron._job import Job
from advlock._cron._problems import BadJobs, Problem
from advlock._cron._schedule import Schedule


def problems(text: str, source: str) -> list[Problem]:
    """All that is wrong with a crontab."""
    with pytest.raises(BadJobs) as caught:
        read_jobs(text, source)
    return list(caught.value.problems)


def only(text: str) -> Job:
    """The one job of a crontab."""
    (found,) = read_jobs(text, "tab").jobs.values()
    return found


CRONTAB = r"""
# m h dom mon dow command
PATH=/usr/bin:/bin
SHELL = "/bin/bash"
MAILTO=root
CRON_TZ='Europe/Berlin'
# name: nightly report!
H 3 * * *  /usr/bin/report --day "$(date +\%F)"

#Ansible: clean up
@daily	/usr/bin/clean
TZ=UTC
CRON_TZ=UTC
HOME=/srv
 */5 * * * 1-5 /usr/bin/backup --all
@every 90s PGPASSWORD=hunter2 /usr/bin/poll --token=hunter2 http://u:hunter2@h/db/
"""


def test_a_good_crontab() -> None:
    """Names from comments or commands; variables, shell and zone for the lines below them."""
    found = read_jobs(CRONTAB.replace("\n", "\r\n"), "/etc/jobs")
    report, clean, backup, poll = found.jobs.values()
    first = (("PATH", "/usr/bin:/bin"), ("SHELL", "/bin/bash"))
    later = (*first, ("TZ", "UTC"), ("HOME", "/srv"))
    assert report == Job(
        "nightly-report",
        Schedule.parse("H 3 * * *", "Europe/Berlin", name="nightly-report"),
        ("/bin/bash", "-c", '/usr/bin/report --day "$(date +%F)"'),
        env=first,
    )
    assert (clean.name, clean.schedule.timezone, clean.env) == ("clean-up", "Europe/Berlin", first)
    assert (backup.name, backup.schedule.timezone, backup.env) == ("backup-3187f9", "UTC", later)
    assert backup.cwd == poll.cwd == "/srv"
    assert poll.name == "poll-9226d0"
    assert poll.schedule == Schedule.parse("@every 90s")
    (warning,) = found.warnings
    assert warning.startswith("/etc/jobs:5: MAILTO does nothing here")


def test_the_shell_is_sh_unless_said_otherwise() -> None:
    """As with cron."""
    assert only("* * * * * x").command == ("/bin/sh", "-c", "x")


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("/usr/bin/backup --all", "backup-3187f9"),
        ("backup", "backup"),
        ("/usr/bin/backup", "backup"),
        ("A=1 B=2 /x/y.sh -q", "y.sh-15487b"),
        ("A=1 /x/y.sh", "y.sh-7b6102"),
        ("'!'", "job-3a7443"),
        ("A=1", "A-f1d316"),
        ("cd /srv/app && python3 -m app.report >> /var/log/x 2>&1", "cd-bbc66a"),
        ("mysqldump -uroot -pS3cret shop", "mysqldump-cf9f8f"),
        ("mysql<<<S3cret", "mysql-6a4160"),
        ("/usr/bin/python3.11 /srv/bin/report.py S3cret", "python3.11-report.py-9b7b03"),
        ("bash -c 'echo S3cret'", "bash-10262a"),
        ("/usr/bin/" + "x" * 50, "x" * 33 + "-ea97a2"),
    ],
)
def test_names_from_commands(command: str, name: str) -> None:
    """Short, valid, without arguments, and the same for ever: H depends on it."""
    assert only(f"@daily {command}").name == name


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("", None, "has no jobs; write a line such as 0 3 * * *"),
        ("# nothing\nA=1\n", None, "has no jobs"),
        ("\n* * * * * * /bin/x", 2, "has a sixth field, *; .* write @every 30s"),
        ("0 30 3 * * * /bin/x", 1, "has a sixth field, *;"),
        ("0 3 * * * 1-5 /bin/x", 1, "has a sixth field, 1-5;"),
        ("0 0 3 * * MON /bin/x", 1, "has a sixth field, MON;"),
        ("17 * * * * root cd / && x", 1, "has a user, root, as in /etc/crontab; leave it out"),
        ("17 * * * * www-data /bin/x", 1, "has a user, www-data"),
        ("@daily root /bin/x", 1, "has a user, root"),
        ("0 3 * * * date +%F", 1, r"has a % in it, .*; write \% for"),
        ("0 3 * * *", 1, "neither NAME=value nor a schedule and a command"),
        ("@every 90s", 1, "neither NAME=value nor"),
        ("hello world", 1, "neither NAME=value nor"),
        ("61 * * * * x", 1, "has a bad minute, '61'"),
        ("@reboot x", 1, "start it with the service manager"),
        ("@dayly x", 1, "did you mean @daily?"),
        ("HOME=srv\n", 1, 'HOME is "srv"; write an absolute path'),
        ("CRON_TZ=Berlin\n", 1, "did you mean Europe/Berlin?"),
        ("@daily x\0", 1, "has a NUL byte"),
        ("# name: !!\n@daily x", 2, 'the name "!!" has no letter'),
        ("# name:\n@daily x", 2, "has no letter"),
        (f"# name: {'a' * 101}\n@daily x", 2, "has 101 characters"),
        (
            "@daily x\n@hourly /bin/x",
            2,
            "the job on line 1 is called x, too; write the comment # name:",
        ),
    ],
)
def test_a_bad_crontab(text: str, line: int | None, words: str) -> None:
    """What cron would misread, or some crons read otherwise, is refused with its line."""
    (problem,) = problems(text, "tab")
    assert problem.line == line
    for part in words.split(".*"):
        assert part in problem.message


def test_a_crontab_says_everything_at_once() -> None:
    """All bad lines of a crontab in one error."""
    text = "61 * * * * x\n0 24 * * * y\n@daily z\n@reboot z\n"
    assert [problem.line for problem in problems(text, "tab")] == [1, 2, 4]


def test_a_command_may_be_called_like_a_user() -> None:
    """Only what looks like the column of /etc/crontab is taken for one."""
    assert only("* * * * * postgres -D /data").name == "postgres-c391a1"
    assert only("* * * * * root -l x.C").name == "root-e9a1d8"
    assert only("* * * * * daemon").name == "daemon"


def test_a_name_must_stand_right_above_its_job() -> None:
    """A comment that names nothing is said, as its job has another name than one thinks."""
    found = read_crontab("# name: a\n\n@daily x\n# name: b", "tab")
    assert [*found.jobs] == ["x"]
    assert found.warnings == (
        "tab:1: the name a is not right above a job",
        "tab:4: the name b is not right above a job",
    )
    assert read_crontab("#Ansible: a\n#@daily y\n@daily x", "tab").warnings == ()
