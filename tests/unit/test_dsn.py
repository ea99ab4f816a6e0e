"""Where the database comes from, how its address is spelled, and that no password is ever shown."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from typing import TYPE_CHECKING
from urllib.parse import quote

import psycopg
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from advlock import _dsn
from advlock._dsn import Dsn, find_settings, normalise, redact, redact_text, resolve
from advlock.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

TEXT = st.text(
    st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=12
)
# Two words no message contains, so that half a password that leaks is caught as well.
HEAD, TAIL = "Zw9Q", "kX4v"
JUNK = st.text("@/?#=&:%'\\ ,;[]+ab", max_size=6)
RAW = JUNK.flatmap(lambda a: JUNK.map(lambda b: f"{a}{HEAD}{b}{TAIL}"))


def escaped(text: str) -> str:
    """Percent-encode everything that has a meaning in a URL."""
    return quote(text, safe="")


HOSTS = st.lists(
    st.sampled_from(["h", "h.example", "h:5432", "[::1]", "[fe80::1]:5433", "10.0.0.1", ""]),
    min_size=1,
    max_size=3,
).map(",".join)
SCHEMES = st.sampled_from(
    ["postgresql", "postgres", "postgresql+asyncpg", "postgresql+psycopg", "POSTGRESQL", "postgis"]
)
PARAMETERS = st.fixed_dictionaries(
    {},
    optional={
        "application_name": TEXT.map(escaped),
        "host": st.sampled_from(["/var/run/postgresql", "%2Fvar%2Frun"]),
        "options": st.just("-c%20search_path=x"),
        "ssl": st.sampled_from(["require", "true", "disable", "verify-full", "0"]),
        "sslpassword": TEXT.map(escaped),
        "timeout": st.sampled_from(["3", "2.5"]),
        "pgbouncer": st.just("true"),
        "prepared_statement_cache_size": st.just("0"),
    },
).map(lambda given: "&".join(f"{name}={value}" for name, value in given.items()))


@st.composite
def urls(draw: st.DrawFn, password: st.SearchStrategy[str] = TEXT) -> tuple[str, str, str]:
    """A well-formed URL with its user and its password."""
    user, secret = draw(TEXT), draw(password)
    query = draw(PARAMETERS)
    url = f"{draw(SCHEMES)}://{escaped(user)}:{escaped(secret)}@{draw(HOSTS)}/{escaped(draw(TEXT))}"
    return (f"{url}?{query}" if query else url), user, secret


def test_the_keyword_list_is_not_behind_libpq() -> None:
    """A keyword of the libpq in use is never refused as unknown."""
    ours = _dsn._KEYWORDS
    assert {option.keyword.decode() for option in pq.Conninfo.get_defaults()} <= ours
    assert not ours & (_dsn._DROPPED | _dsn._RENAMED.keys())


@given(urls())
def test_normalise_makes_what_libpq_reads_and_stays(case: tuple[str, str, str]) -> None:
    """The library libpq finds the same user and password in it; a second pass changes nothing."""
    url, user, password = case
    answer = normalise(url)
    read = conninfo_to_dict(answer)
    assert (read["user"], read["password"]) == (user, password)
    assert normalise(answer) == answer


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgres://u@h/d", "postgresql://u@h/d"),
        ("postgresql+asyncpg://u@h/d", "postgresql://u@h/d"),
        ("postgresql+psycopg://u@h/d", "postgresql://u@h/d"),
        ("postgresql+psycopg2://u@h/d", "postgresql://u@h/d"),
        ("postgresql+psycopg_async://u@h/d", "postgresql://u@h/d"),
        ("postgresql+pg8000://u@h/d", "postgresql://u@h/d"),
        (" postgresql:///d\n", "postgresql:///d"),
        ("postgresql://", "postgresql://"),
        ("postgresql://u:p%40%2Fw%25@h/d", "postgresql://u:p%40%2Fw%25@h/d"),
        ("postgresql://a:1,b,[::1]:3/d", "postgresql://a:1,b,[::1]:3/d"),
        ("postgresql://%2Fvar%2Frun/d", "postgresql://%2Fvar%2Frun/d"),
        ("postgresql:///d?host=/var/run/postgresql", "postgresql:///d?host=/var/run/postgresql"),
        ("postgresql://h/d?ssl=require", "postgresql://h/d?sslmode=require"),
        ("postgresql://h/d?ssl=true", "postgresql://h/d?sslmode=require"),
        ("postgresql://h/d?ssl=False", "postgresql://h/d?sslmode=disable"),
        ("postgresql://h/d?ssl=verify-full", "postgresql://h/d?sslmode=verify-full"),
        ("postgresql://h/d?ssl=true&sslmode=verify-ca", "postgresql://h/d?sslmode=verify-ca"),
        ("postgresql://h/d?timeout=2.5", "postgresql://h/d?connect_timeout=3"),
        ("postgresql://h/d?pgbouncer=true&user=x&schema=a", "postgresql://h/d?user=x"),
        ("postgresql://h/d?options=-cjit=off", "postgresql://h/d?options=-cjit%3Doff"),
        ("postgresql://h/d?user=x%40tenant", "postgresql://h/d?user=x%40tenant"),
        ("postgresql://u:12?a=w@h/d", "postgresql://u:12?a=w@h/d"),
        ("host=h dbname=d", "host=h dbname=d"),
        ("\thost=h password=a\\ ", "\thost=h password=a\\ "),
        ("host=h password=a\u00a0\n", "host=h password=a\u00a0\n"),
        ("host = h password = 'it\\'s a'", "host = h password = 'it\\'s a'"),
        ("service=prod", "service=prod"),
    ],
)
def test_normalise(url: str, expected: str) -> None:
    """Each spelling of some library becomes libpq's, which libpq then accepts."""
    assert normalise(url) == expected
    assert normalise(expected) == expected
    conninfo_to_dict(expected)


@pytest.mark.parametrize("name", sorted(_dsn._DROPPED))
def test_what_configures_another_driver_is_dropped(name: str) -> None:
    """A parameter that libpq refuses and that does not say which database is left out."""
    with pytest.raises(psycopg.ProgrammingError):
        conninfo_to_dict(f"postgresql://h/d?{name}=1")
    assert normalise(f"postgresql://h/d?{name}=1&port=5") == "postgresql://h/d?port=5"


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("sqlite:///x.db", "sqlite:// URL is none of PostgreSQL's; write postgresql://"),
        ("mysql+pymysql://u:pw@h/d", "mysql"),
        ("jdbc:postgresql://h/d", "write postgresql://"),
        ("cockroachdb://h/d", "CockroachDB"),
        ("cockroachdb+asyncpg://h/d", "CockroachDB"),
        ("redshift+psycopg2://h/d", "Redshift has no advisory locks"),
        ("postgresql://h/d?sslmod=require", "'sslmod'; did you mean 'sslmode'"),
        ("postgresql://h/d?zzz=1", "'zzz'; libpq has no such parameter, so leave it out"),
        ("postgresql://h/d?sslaccept=strict", "unknown connection parameter 'sslaccept'"),
        ("postgresql://h/d?ssl=maybe", "write sslmode=require or sslmode=verify-full"),
        ("postgresql://h/d?timeout=soon", "write connect_timeout=10"),
        ("postgresql://h/d?timeout=inf", "write connect_timeout=10"),
        ("postgresql://h/d?host=a&host=b", "write several hosts as host=a,b"),
        ("postgresql://h/d?port", "name=value"),
        ("postgresql://u:pw@w@h/d", "@ as %40"),
        ("postgresql://u:pw/w@h/d", "/ as %2F"),
        ("postgresql://u:12/w@h/d", "/ as %2F"),
        ("postgresql://h/d?user=x@tenant", "@ as %40"),
        ("postgresql://u:pw#w@w@h/d", "# as %23"),
        ("postgresql://u:pw%zz@h/d", "% as %25"),
        ("postgresql://u:pw%00@h/d", "%25"),
        ("postgresql://u:p w@h/d", "blank as %20"),
        ("postgresql://h:port/d", "malformed host"),
        ("hots=h", "'hots'; did you mean 'host'"),
        ("ssl=true host=h", "unknown connection parameter 'ssl'"),
        ("password=my secret=1 host=h", "single quotes"),
        ("host='h", "neither a URL"),
        ("host=h\0", "neither a URL"),
        ("mydb", "neither a URL"),
        ("", "neither a URL"),
        ("u:pw@h/d", "neither a URL"),
        ("u:pw=1@h/d", "malformed near its password"),
        ("u:pw://x@h/d", "neither a URL"),
        ("postgresql://h/d?pw%3D=1&pw%3D=2", "malformed near its password"),
    ],
)
def test_what_is_no_postgresql_address_is_refused(url: str, words: str) -> None:
    """The message names the mistake and the right spelling, and never the password."""
    with pytest.raises(ConfigError) as caught:
        normalise(url)
    assert words in str(caught.value)
    assert "pw" not in str(caught.value)
    assert "secret" not in str(caught.value)


def errors_and_redaction(conninfo: str) -> str:
    """Everything advlock may say about a connection string."""
    try:
        said = repr(Dsn(normalise(conninfo), "DATABASE_URL"))
    except ConfigError as error:
        said = str(error)
    return said + redact(conninfo) + repr(Dsn(conninfo, "x")) + str(Dsn(conninfo, "x"))


def assert_hidden(said: str) -> None:
    """Neither half of the marked password is to be seen."""
    assert HEAD not in said
    assert TAIL not in said


@given(urls(RAW))
def test_a_well_formed_url_never_shows_its_password(case: tuple[str, str, str]) -> None:
    """Escaped as it should be, the password is hidden in every text about the URL."""
    assert_hidden(errors_and_redaction(case[0]))
    assert "***" in redact(case[0])


@given(RAW, st.sampled_from(["h/d", "h:5432/d?sslmode=require", "h", "/d"]))
@example(f"p@{HEAD}?application_name={TAIL}", "h/d")
@example(f"@/{HEAD}?{TAIL}", "h/d")
def test_a_url_with_an_unescaped_password_never_shows_it(password: str, rest: str) -> None:
    """People paste passwords as they are; however the URL then reads, no half of it is shown."""
    assert_hidden(errors_and_redaction(f"postgresql://u:{password}@{rest}"))


@given(RAW, st.sampled_from(["", "host=h ", "sslpassword=x "]))
def test_an_unquoted_keyword_password_never_shows(password: str, before: str) -> None:
    """A password with blanks and no quotes spills over into words that look like keywords."""
    assert_hidden(errors_and_redaction(f"{before}password={password} dbname=d"))


@given(RAW, st.sampled_from(sorted(_dsn._SECRET)))
def test_every_secret_keyword_is_hidden_in_both_spellings(secret: str, keyword: str) -> None:
    """The key's passphrase and the OAuth secret are secrets as much as the password is."""
    assert_hidden(errors_and_redaction(make_conninfo("host=h", **{keyword: secret})))
    url = f"postgresql://h/d?{keyword}={escaped(secret)}&port=5"
    assert_hidden(errors_and_redaction(url))
    assert redact(url) == f"postgresql://h/d?{keyword}=***&port=5"


@given(st.one_of(st.text(), st.text().map("postgresql://h/d?{}".format), RAW))
@example("postgresql://h/d?port")
def test_nothing_is_too_malformed_to_be_redacted(conninfo: str) -> None:
    """An error about a connection string must not be replaced by an error about showing it."""
    once = redact(conninfo)
    assert redact(once) == once
    redact_text("x", conninfo)


@pytest.mark.parametrize(
    ("conninfo", "shown"),
    [
        ("postgresql://u:p@h:5/d?sslmode=require", "postgresql://u:***@h:5/d?sslmode=require"),
        ("postgresql://u@h/d", "postgresql://u@h/d"),
        ("postgresql+asyncpg://:p@h", "postgresql+asyncpg://:***@h"),
        ("host=h password='a b' dbname=d", "host=h password=*** dbname=d"),
        ("host = h  password = p", "host=h password=***"),
        ("postgresql://u:p@w@h/d", "postgresql://***"),
        ("host=h nonsense", "***"),
        ("", ""),
    ],
)
def test_redact(conninfo: str, shown: str) -> None:
    """Only the password goes; a string nobody can parse goes whole."""
    assert redact(conninfo) == shown


@given(urls(RAW))
def test_redact_text_removes_the_password_however_it_is_spelled(case: tuple[str, str, str]) -> None:
    """A driver may quote the password as it stands in the connection string, or decoded."""
    url, _, password = case
    assert_hidden(redact_text(f"in {escaped(password)!r}: bad {password}", url))
    keywords = make_conninfo(password=password, host="h")
    assert_hidden(redact_text(f"{password} in {keywords}", keywords))


@pytest.mark.parametrize(
    ("message", "conninfo", "shown"),
    [
        ('role "u" is missing', "postgresql://u@h/d", 'role "u" is missing'),
        ("bad: 'it\\'s'", "host=h password='it\\'s'", "bad: ***"),
        ("bad: it's", "host=h password='it\\'s'", "bad: ***"),
        ("p*p", "postgresql://u:*@h?sslpassword=p", "*********"),
        ("no password here", "", "no password here"),
        ("empty", "postgresql://u:@h", "empty"),
    ],
)
def test_redact_text(message: str, conninfo: str, shown: str) -> None:
    """What is left of the message stays readable."""
    assert redact_text(message, conninfo) == shown


def test_redact_text_withholds_what_it_cannot_judge() -> None:
    """With a malformed connection string, any word of the message may be a part of its password."""
    said = redact_text('invalid port: "pw"', "postgresql://u:pw/x@h/d")
    assert "pw" not in said
    assert "withheld" in said


# Where the address comes from.

FLAG, OWN, FILE, COMMON = (
    "postgresql://flag",
    "postgresql://own",
    "postgresql://f",
    "postgres://c",
)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A directory whose search for settings ends at itself."""
    (tmp_path / ".git").mkdir()
    return tmp_path


def test_the_order_of_the_places(project: Path) -> None:
    """Each place decides only when all those before it are silent."""
    (project / "advlock.toml").write_text(f"dsn = '{FILE}'")
    environ = {"ADVLOCK_DSN": OWN, "DATABASE_URL": COMMON, "PGHOST": "h"}

    assert resolve(FLAG, environ=environ, cwd=project) == Dsn(FLAG, "--dsn")
    assert resolve(environ=environ, cwd=project) == Dsn(OWN, "ADVLOCK_DSN")
    del environ["ADVLOCK_DSN"]
    found = resolve(environ=environ, cwd=project)
    assert found == Dsn(FILE, str(project / "advlock.toml"))
    (project / "advlock.toml").unlink()
    assert resolve(environ=environ, cwd=project) == Dsn("postgresql://c", "DATABASE_URL")
    del environ["DATABASE_URL"]
    assert resolve(environ=environ, cwd=project) == Dsn("", "PGHOST")


def test_without_a_place_the_error_names_both_ways_out(project: Path) -> None:
    """There is no silent fallback: two hosts would each lock a database of their own."""
    with pytest.raises(ConfigError, match=r"DATABASE_URL.*--dsn.*--local"):
        resolve(environ={"PGPASSWORD": "p", "PGSSLMODE": "require"}, cwd=project)


@pytest.mark.parametrize(
    "name", ["PGHOST", "PGHOSTADDR", "PGSERVICE", "PGDATABASE", "PGPORT", "PGUSER"]
)
def test_libpq_reads_its_own_environment(project: Path, name: str) -> None:
    """Any variable of libpq's that says where to connect is enough, and libpq reads the rest."""
    assert resolve(environ={name: "5"}, cwd=project) == Dsn("", name)


def test_an_empty_variable_is_unset_and_an_empty_flag_is_a_mistake(project: Path) -> None:
    """Compose files set empty variables; `--dsn "$TYPO"` must not reach another database."""
    environ = {"ADVLOCK_DSN": "", "DATABASE_URL": COMMON}
    assert resolve(environ=environ, cwd=project).origin == "DATABASE_URL"
    with pytest.raises(ConfigError, match="--dsn"):
        resolve("", environ=environ, cwd=project)


def test_a_wrong_address_is_refused_by_the_name_of_its_place(project: Path) -> None:
    """The first place that speaks decides, even when it is wrong."""
    environ = {"ADVLOCK_DSN": "sqlite:///x", "DATABASE_URL": COMMON}
    with pytest.raises(ConfigError, match=r"^ADVLOCK_DSN: a sqlite"):
        resolve(environ=environ, cwd=project)


def test_the_environment_and_the_directory_are_the_process_s_own_by_default(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is not given is read when it is needed, not when the module was imported."""
    monkeypatch.delenv("ADVLOCK_DSN", raising=False)
    monkeypatch.setenv("DATABASE_URL", COMMON)
    monkeypatch.chdir(project)
    assert resolve().origin == "DATABASE_URL"
    (project / "advlock.toml").write_text(f"dsn = '{FILE}'")
    assert resolve().conninfo == FILE


def test_a_deleted_directory_has_no_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job whose directory was removed under it still finds its DATABASE_URL."""
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert resolve(environ={"DATABASE_URL": COMMON}).origin == "DATABASE_URL"


def test_settings_are_found_in_parents_up_to_the_repository(project: Path) -> None:
    """A job in a subdirectory sees its project's file, and never one from outside the project."""
    inner = project / "a" / "b"
    inner.mkdir(parents=True)
    (project / "pyproject.toml").write_text(f"[tool.advlock]\ndsn = '{FILE}'")
    assert find_settings(inner) == ({"dsn": FILE}, project / "pyproject.toml")
    (project / "a" / ".git").write_text("gitdir: elsewhere")
    assert find_settings(inner) == ({}, None)


def test_the_nearest_file_decides_and_advlock_toml_before_pyproject(project: Path) -> None:
    """One file speaks, so nobody has to merge tables in their head."""
    inner = project / "a"
    inner.mkdir()
    (project / "advlock.toml").write_text(f"dsn = '{OWN}'")
    (inner / "pyproject.toml").write_text(f"[tool.advlock]\ndsn = '{FILE}'")
    assert find_settings(inner)[1] == inner / "pyproject.toml"
    (inner / "advlock.toml").write_text("namespace = 'x'")
    assert find_settings(inner) == ({"namespace": "x"}, inner / "advlock.toml")
    assert resolve(environ={"DATABASE_URL": COMMON}, cwd=inner).origin == "DATABASE_URL"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[tool.other]\nadvlock = 1",
        "[project]\nname = 'advlock'",
        "tool = 'advlock'",
        "= broken",
    ],
)
def test_somebody_else_s_pyproject_is_none_of_our_business(project: Path, text: str) -> None:
    """Without a table of ours, the file is neither an answer nor an error."""
    (project / "pyproject.toml").write_text(text)
    assert find_settings(project) == ({}, None)


@pytest.mark.parametrize("setting", ["locks", "cron", "jobs", "namespace", "keys", "dsn"])
def test_every_setting_of_the_contract_is_accepted(project: Path, setting: str) -> None:
    """The commands to come keep their settings in the same table."""
    (project / "advlock.toml").write_text(f"{setting} = 'postgresql://h'")
    assert setting in find_settings(project)[0]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("advlock.toml", b"dns = 'x'", "'dns'; did you mean 'dsn'"),
        ("advlock.toml", b"qqqq = 'x'", "no such setting: 'qqqq'"),
        ("advlock.toml", b"dsn = pw", "no valid TOML"),
        ("advlock.toml", b"\xff", "cannot be read"),
        ("advlock.toml", b"dsn = 5", "dsn is a string"),
        ("advlock.toml", b"dsn = ''", "neither a URL"),
        ("pyproject.toml", b"[tool.advlock]\ndns = 'x'", "did you mean 'dsn'"),
        ("pyproject.toml", b"[tool]\nadvlock = 5", r"write \[tool.advlock\]"),
        ("pyproject.toml", b"[tool.advlock]\ndsn = pw", "no valid TOML"),
    ],
)
def test_a_wrong_file_is_refused_by_its_name(
    project: Path, name: str, content: bytes, words: str
) -> None:
    """A file that was meant for advlock is never skipped: what follows may be another database."""
    (project / name).write_bytes(content)
    with pytest.raises(ConfigError, match=words) as caught:
        resolve(environ={"DATABASE_URL": COMMON}, cwd=project)
    assert str(caught.value).startswith(str(project / name))
    assert "pw" not in str(caught.value).removeprefix(str(project))


def test_a_dsn_shows_itself_without_its_password() -> None:
    """Logs and debuggers see where the locks live, and who said so."""
    dsn = Dsn("postgresql://u:pw@h/d", "DATABASE_URL")
    assert str(dsn) == "postgresql://u:***@h/d (from DATABASE_URL)"
    assert repr(dsn) == "Dsn('postgresql://u:***@h/d', origin='DATABASE_URL')"
    assert str(Dsn("", "PGHOST, PGUSER")) == "PGHOST, PGUSER"
    with pytest.raises(FrozenInstanceError):
        dsn.origin = "x"  # type: ignore[misc]
