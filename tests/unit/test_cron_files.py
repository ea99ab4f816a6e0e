"""Files of jobs: what is right in them, and everything that is not, each with its line."""

from __future__ import annotations

import pickle
import tomllib
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advlock._cron._crontab import read_crontab
from advlock._cron._files import read_jobs
from advlock._cron._job import Job, JobSet
from advlock._cron._problems import BadJobs, Problem
from advlock._cron._schedule import Schedule
from advlock._cron._toml import read_toml
from advlock._cron._where import lines_of
from advlock.errors import ConfigError

GOOD = """\
[cron]
timezone = "America/New_York"
max_running = 16

[defaults]
grace = "5m"
env = {A = "default", B = "default"}
history = {keep = 7}

[jobs.nightly-report]
schedule = "H 3 * * *"
command = ["python", "-m", "app.report"]
timezone = "Europe/Berlin"
overlap = "skip"
missed = "once"
max_missed = 10
grace = 90
timeout = "1h"
kill_after = "10s"
retries = 2
retry_wait = "15s"
jitter = "0s"
enabled = false
on_crash = "rerun"
on_lost = "continue"
history = {keep = 100, max_age = "7d", output = "16KiB"}
env = {B = "own"}
cwd = "/srv/app"
description = "For the boss"

[jobs."app.poll"]
schedule = "@every 90s"
command = "date >> /tmp/dates"
shell = true
overlap = "Allow"
output = 0
"""


def problems(text: str, source: str = "jobs.toml") -> list[Problem]:
    """All that is wrong with a file."""
    with pytest.raises(BadJobs) as caught:
        read_jobs(text, source)
    return list(caught.value.problems)


def job(keys: str) -> str:
    """A TOML file with one job, of which the keys under test stand from line 4."""
    return f'[jobs.nightly]\nschedule = "@daily"\ncommand = ["true"]\n{keys}\n'


def only(text: str, source: str = "") -> Job:
    """The one job of a file."""
    (found,) = read_jobs(text, source).jobs.values()
    return found


def test_a_good_file() -> None:
    """Every key arrives, in seconds and bytes, over the defaults and those over our own."""
    found = read_toml(GOOD, "jobs.toml")
    assert (found.source, found.max_running, found.warnings) == ("jobs.toml", 16, ())
    report, poll = found.jobs.values()
    assert report == Job(
        "nightly-report",
        Schedule.parse("H 3 * * *", "Europe/Berlin", name="nightly-report"),
        ("python", "-m", "app.report"),
        grace=90.0,
        timeout=3600.0,
        retries=2,
        retry_wait=15.0,
        enabled=False,
        on_crash="rerun",
        on_lost="continue",
        keep=100,
        max_age=7 * 86_400.0,
        env=(("A", "default"), ("B", "own")),
        cwd="/srv/app",
        description="For the boss",
    )
    assert poll == Job(
        "app.poll",
        Schedule.parse("@every 90s", "America/New_York"),
        ("/bin/sh", "-c", "date >> /tmp/dates"),
        overlap="allow",
        keep=7,
        output=0,
        env=(("A", "default"), ("B", "default")),
    )


def test_the_least_that_makes_a_job() -> None:
    """A schedule and a command are enough, and all else is as the Job itself has it."""
    assert only(job("")) == Job("nightly", Schedule.parse("@daily"), ("true",))
    assert JobSet({}).max_running is read_jobs(job(""), "").max_running is None


@pytest.mark.parametrize(
    ("keys", "field", "value"),
    [
        ('overlap = "Forbid"', "overlap", "skip"),
        ('overlap = "REPLACE"', "overlap", "replace"),
        ('missed = "All"', "missed", "all"),
        ("grace = 0", "grace", 0.0),
        ("timeout = 0.5", "timeout", 0.5),
        ('output = "64KB"', "output", 64_000),
        ('output = "1 mib"', "output", 1024**2),
        ('output = "5"', "output", 5),
        ("output = 16384", "output", 16_384),
        ("history.keep = 5", "keep", 5),
        ('max_age = "1d"', "max_age", 86_400.0),
        ('description = ""', "description", ""),
    ],
)
def test_spellings(keys: str, field: str, value: Any) -> None:
    """Kubernetes' words in any case, sizes in either unit, and durations as anywhere here."""
    assert getattr(only(job(keys)), field) == value


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ("overlap = 'skp'", 'overlap is "skp"; did you mean "skip"? It is one of "skip", "queue"'),
        ("overlap = 5", 'overlap is a number, 5; write one of "skip"'),
        ("missed = 'never'", 'missed is "never"; it is one of "once", "skip", "all"'),
        ("on_crash = 'next-tick'", 'did you mean "next_tick"?'),
        ("on_lost = true", "on_lost is a boolean, true"),
        ("max_missed = 0", "max_missed is 0; write a whole number from 1"),
        ("max_missed = true", "max_missed is a boolean, true; write a whole number"),
        ("retries = -1", "retries is -1; write a whole number from 0"),
        ("retries = 1.5", "retries is a number, 1.5; write a whole number"),
        ("retries = 99999999999", "write a whole number from 0"),
        ("keep = 0", "keep is 0; write a whole number from 1"),
        ("grace = -1", "grace -1 is negative; write a duration"),
        ("grace = '5x'", "grace '5x' has an unknown unit, 'x'; write a duration"),
        ("grace = true", 'grace is a boolean; write a duration such as "30s"'),
        ("grace = nan", "grace nan is no number"),
        ("grace = inf", "grace is inf; a hundred years"),
        ("jitter = 1e300", "a hundred years"),
        ("timeout = 0", "timeout is 0; leave it out for no limit"),
        ("timeout = '0s'", "timeout is 0; leave it out for no limit"),
        ("max_age = 0", "max_age is 0; write keep = 1"),
        ("output = '16 gigs'", 'output is "16 gigs"; write bytes, such as 16384, or "16KiB"'),
        ("output = -1", "output is -1; write bytes"),
        ("output = true", "output is true; write bytes"),
        ("output = '9999MiB'", 'write less than "2048MiB"'),
        ("enabled = 'yes'", 'enabled is a string, "yes"; write enabled = true, without quotes'),
        ("enabled = 0", "enabled is a number, 0; write enabled = false"),
        ("history = 5", "history is a number; write history = {keep = 200"),
        ("history = {kep = 5}", 'no key "kep" in [jobs.nightly.history]; did you mean keep?'),
        ("history = {keep = 0}", "jobs.nightly.history.keep is 0"),
        ("env = 'A=1'", "env is a string; write a table such as env = {"),
        ("env = {PORT = 80}", "env has a number for PORT; all variables are strings; write PORT ="),
        ("env = {'A=B' = 'x'}", "env has a variable 'A=B'; a variable's name"),
        ('env = {A = "x\\u0000"}', "env has a NUL byte in it; leave that out"),
        ("cwd = ''", 'cwd is empty; write a string such as "/srv/app"'),
        ("cwd = 5", "cwd is a number; write a string"),
        ("cwd = '-'", 'cwd is "-"; write an absolute path such as /srv/app'),
        ("description = []", "description is a list; write a string"),
        ("timezone = 'Berlin'", "no timezone 'Berlin'; did you mean Europe/Berlin?"),
        ("timezone = 1", "timezone is a number; write a string"),
        ("overlapp = 1", 'no key "overlapp" in [jobs.nightly]; did you mean overlap?'),
        ("concurrencyPolicy = 'Forbid'", "here it is called overlap"),
        ("cmd = 'x'", "here it is called command"),
        ("every = '5m'", 'here it is called schedule = "@every 5m"'),
        ("max_running = 5", "it belongs below [cron]"),
        ("zzz = 5", "there are command, cwd, description,"),
        ("shell = 1", "shell is a number, 1; write shell = true"),
        ("x = 1979-05-27", 'no key "x"'),
        ("retries = 1979-05-27", "retries is a date"),
    ],
)
def test_a_bad_key(keys: str, words: str) -> None:
    """One problem, on the line of the key, with what to write there."""
    (problem,) = problems(job(keys))
    assert problem.line == 4
    assert words in problem.message
    assert str(problem) == f"jobs.toml:4: {problem.message}"


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("'x y'", 'is a string; write command = ["x", "y"], or add shell = true to have /bin/sh'),
        ("""'x "a b'""", r'command = ["x", "\"a", "b"]'),
        ("""'x "a b"'""", 'command = ["x", "a b"]'),
        ("''", 'is empty; write command = ["python", "-m", "app.report"]'),
        ("[]", "is empty; write command ="),
        ("5", "is a number; write command ="),
        ("['x']\nshell = true", "is a list; with shell = true it is one string"),
        ("['x', 5]", "has a number in it, 5; write all of them as strings"),
        ("['', 'x']", "has no program; the first string"),
        ('["x", "a\\u0000"]', "has a NUL byte in it; leave that out"),
    ],
)
def test_a_bad_command(command: str, words: str) -> None:
    """A command is a list, or a string that is said to be for the shell."""
    (problem,) = problems(f'[jobs.a]\nschedule = "@daily"\n\ncommand = {command}\n')
    assert (problem.line, words in problem.message) == (4, True), problem


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("", None, "has no jobs; write [jobs.NAME]"),
        ("[jobs]\n", None, "has no jobs"),
        ("[jobs]\nschedule = '@daily'\n", 2, "schedule belongs to a job; write [jobs.NAME] above"),
        ("[jobs]\na = '@daily'\n", 2, "jobs.a is a string; write [jobs.a] and below it schedule"),
        ("\n[[jobs]]\nname = 'a'\n", 2, "jobs is a list; write [jobs.NAME] for each job"),
        ("jobs = 5\n", 1, "jobs is a number; write [jobs.NAME]"),
        ("cron = 5\n" + job(""), 1, "cron is a number; write [cron] and its keys below it"),
        ("[job.a]\nschedule = '@daily'\n", 1, 'no table or key "job"; write [jobs.NAME]'),
        ("timezone = 'UTC'\n" + job(""), 1, "it belongs below [cron]"),
        ("grace = 5\n" + job(""), 1, "it belongs below [jobs.NAME]"),
        (job("[default]"), 4, 'no table or key "default"; did you mean defaults?'),
        (job("[defaults]\nschedule = ''"), 5, "it belongs below [jobs.NAME]"),
        (job("[defaults]\ntimezone = ''"), 5, "it belongs below [cron]"),
        (job("[defaults]\ntimeout = 0"), 5, "defaults.timeout is 0; leave it out for no limit"),
        (job("[cron]\ngrace = ''"), 5, "it belongs below [defaults]"),
        (job("[cron]\ntime_zone = ''"), 5, "did you mean timezone?"),
        (job("[cron]\nmax_running = 0"), 5, "cron.max_running is 0; write a whole number from 1"),
        (job("[cron]\ntimezone = '../x'"), 5, "no timezone '../x'"),
        ("[jobs.a]\ncommand = ['x']\n", 1, 'job a has no schedule; write schedule = "0 3 * * *"'),
        ("[jobs.a]\nschedule = '@daily'\n", 1, 'job a has no command; write command = ["prog"'),
        ("[jobs.a]\nschedule = 5\ncommand = ['x']\n", 2, "jobs.a.schedule is a number"),
        ("[jobs.a]\ncommand = ['x']\nschedule = '61 * * * *'\n", 3, "a: the schedule '61 * * * *'"),
        ("[jobs.app.report]\nschedule = '@daily'\n", 1, 'stands in quotes: [jobs."app.report"]'),
        (job("").replace("nightly", "'a b'"), 1, "the name \"a b\" has a ' ' in it"),
        (job("").replace("nightly", "'é'"), 1, "has a 'é' in it; a job's name is made of letters"),
        (job("").replace("nightly", "-a"), 1, "starts with a dash; write a"),
        (job("").replace("nightly", "''"), 1, "a job has an empty name"),
        (job("").replace("nightly", "a" * 101), 1, "has 101 characters; 100 are the most"),
        ("a = [\n[[[" + "[" * 5000, None, "too many brackets"),
    ],
)
def test_a_bad_table(text: str, line: int | None, words: str) -> None:
    """What stands in the wrong place or under no job is told where it belongs."""
    (problem,) = problems(text)
    assert (problem.line, words in problem.message) == (line, True), problem


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("[jobs.a]\nx = yes", 2, "no valid TOML, column 5: Invalid value; a text stands in quotes"),
        ("[jobs.a]\n\n[jobs.a]\n", 3, "twice; this table is there already"),
        ("a = 1\na = 2\n", 2, "Cannot overwrite a value; this key is there already"),
        ("a\n", 1, "write key = value, and tables as [jobs.NAME]"),
        ("[jobs.a b]\n", 1, 'write [jobs.NAME], or [jobs."NAME"]'),
        ('a = "x\n', 1, "a string of one line ends on it"),
        ("a = 'x", 1, "a string ends with the quote it began with"),
        ('a = "\\x"\n', 1, "write \\\\ for a backslash"),
        ("a = 1 b = 2\n", 1, "each key stands on a line of its own"),
        ("\n\na = [1,\n", 4, "no valid TOML, at the end of the file"),
    ],
)
def test_what_is_no_toml(text: str, line: int, words: str) -> None:
    """The place that tomllib names, and what is probably meant there."""
    (problem,) = problems(text)
    assert (problem.line, words in problem.message) == (line, True), problem


def test_everything_that_is_wrong_is_said_at_once() -> None:
    """A file is corrected in one go: all problems, by line, in one error that pickles."""
    text = job("timeout = 0\nretry = 1") + '[jobs."b c"]\ncommand = "x y"\n[cron]\nmax_runing = 1\n'
    with pytest.raises(ConfigError) as caught:
        read_toml(text, "jobs.toml")
    error = caught.value
    assert isinstance(error, BadJobs)
    assert [problem.line for problem in error.problems] == [4, 5, 6, 6, 7, 9]
    assert str(error) == "\n".join(map(str, error.problems))
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), again.problems, str(again)) == (BadJobs, error.problems, str(error))


def test_a_bad_zone_hides_no_bad_schedule() -> None:
    """Both mistakes of one job are found, each on its line."""
    text = '[jobs.a]\ntimezone = "Berlin"\ncommand = ["x"]\nschedule = "61 * * * *"\n'
    assert [problem.line for problem in problems(text)] == [2, 4]


def test_messages_show_no_value_of_a_variable() -> None:
    """Passwords stand in variables, so what is wrong with one is said without its value."""
    for bad in ("{A = 'hunter2', B = 5}", '{A = "hunter2\\u0000"}', "{A = {hunter2 = 1}}"):
        assert "hunter2" not in str(problems(job(f"env = {bad}")))


def test_a_schedule_gets_its_warnings_with_the_line() -> None:
    """What is allowed and probably not meant is said, and the job runs."""
    text = '[jobs.a]\ncommand = ["x"]\nschedule = "0 0 1 * 1"\n'
    (warning,) = read_toml(text, "jobs.toml").warnings
    assert warning.startswith("jobs.toml:3: a: the schedule '0 0 1 * 1': ")
    (warning,) = read_crontab("\n0 0 1 * 1 /bin/x\n", "tab").warnings
    assert warning.startswith("tab:2: x: the schedule '0 0 1 * 1': ")


def test_lines_of_keys() -> None:
    """Strings and lists of several lines, comments, quotes and dots do not put the lines out."""
    text = '''\
# a comment with [ and "
[jobs."a.b"] # ]
schedule = "# ["
command = [ # ]
  "a]", \'\'\'
\'\'\', {x = "}"},
]
text = """\\""" [
""\t"""""
history.keep = 1
env = {A = "1", B.C = ']'}

  [jobs]
[[list.of]]
[[list.of]]
end = 1'''
    assert tomllib.loads(text)
    b = ("jobs", "a.b")
    assert lines_of(text) == {
        ("jobs",): 2,
        b: 2,
        (*b, "schedule"): 3,
        (*b, "command"): 4,
        (*b, "text"): 8,
        (*b, "history"): 10,
        (*b, "history", "keep"): 10,
        (*b, "env"): 11,
        (*b, "env", "A"): 11,
        (*b, "env", "B"): 11,
        (*b, "env", "B", "C"): 11,
        ("list",): 14,
        ("list", "of"): 14,
        ("list", "of", "end"): 16,
    }


@given(
    st.lists(st.sampled_from(["", "# x", "a", "[[", "'''\n'''", '"""\n\n"""', "[\n1,\n]", "'\"#'"]))
)
def test_lines_of_any_keys(values: list[str]) -> None:
    """However many lines a value takes, the next key is found on its own."""
    text, expected, line = "", {}, 1
    for n, value in enumerate(values):
        statement = f"{value}\n" if value in {"", "# x"} else f"k{n} = {value}\n"
        if value in {"a", "[["}:
            statement = f"k{n} = '{value}' # {value}\n"
        if statement.startswith("k"):
            expected[(f"k{n}",)] = line
        text += statement
        line += statement.count("\n")
    assert lines_of(text) == expected


def test_which_format() -> None:
    """TOML by its name, or by how it begins; whatever else is a crontab."""
    toml = "\ufeff# jobs\n\n [jobs.a]\nschedule = '@daily'\ncommand = ['x']\n"
    assert only(toml, "jobs").name == only(toml, "JOBS.TOML").name == "a"
    assert only("\ufeff@daily x", "jobs").name == "x"
    assert "no valid TOML" in problems("@daily x", "jobs.toml")[0].message


@given(st.text("ab=\"'[]{}.\n #01@*%H", max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    """Nothing but BadJobs comes out of either reader."""
    for source in ("jobs.toml", "crontab"):
        with suppress(BadJobs):
            read_jobs(text, source)


def test_the_settings_of_advlock_toml_may_stand_beside_the_jobs() -> None:
    """One file may say where the database is, and what runs there."""
    text = 'dsn = "postgresql://db"\nkeys = "hashtext"\n[jobs.a]\nschedule = "@daily"\n'
    assert list(read_jobs(text + 'command = ["x"]\n', "advlock.toml").jobs) == ["a"]
