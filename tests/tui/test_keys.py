"""Every key does what the help says, on pictures made by hand."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest

from advlock.cli._top._app import Top
from advlock.cli._top._screens import KEYS, Full, Kill

from .helpers import USUAL, ByHand, Screen, ago, holder, run, running, snapshot, tree, waiter

if TYPE_CHECKING:
    from advlock._inspect._tree import Snapshot

LOCKS = ["nightly", "books", "import"]


def test_the_usual_picture() -> None:
    """The longest wait stands first, waiters stand below whom they wait for."""

    async def test() -> None:
        async with running(ByHand()) as screen:
            assert screen.names[:9] == [
                *("nightly", "web-9:12", "web-9:13", "books", "web-9:22"),
                *("import", "web-1:31", "web-2:32", "web-9:33"),
            ]
            assert "5 locks  4 waiting  longest wait 11m40s  1 stuck" in screen.text
            assert "shop as oncall" in screen.text
            assert "03:00:00 UTC" in screen.text

    run(test())


def test_the_cursor_moves() -> None:
    """Up, down, a page, to the ends; the details are those of the row."""

    async def test() -> None:
        async with running(ByHand()) as screen:
            assert screen.here == "nightly"
            await screen.press("down", "down", "down")
            assert screen.here == "books"
            await screen.shows("pg_terminate_backend(20)")
            await screen.press("up")
            assert screen.here == "web-9:13"
            await screen.shows("pg_terminate_backend(12)")
            await screen.press("end")
            assert screen.here == "42"
            await screen.press("home")
            assert screen.here == "nightly"
            await screen.press("pagedown")
            assert screen.app.table.cursor > 3
            await screen.press("pageup")
            assert screen.here == "nightly"

    run(test())


@pytest.mark.parametrize("leave", ["enter", "down"])
def test_the_filter_works_while_one_types(leave: str) -> None:
    """Every word must be found, in the lock or in one of its sessions; Escape clears it."""

    async def test() -> None:
        async with running(ByHand()) as screen:
            await screen.press("slash", *"CI")
            assert screen.names == ["deploy"]
            await screen.press(leave)
            assert "/ci" in screen.text
            await screen.press("slash", "space", *"web")
            assert screen.names == []
            await screen.press("escape")
            assert screen.names[0] == "nightly"
            assert "/ci" not in screen.text
            await screen.press("slash", *"nightly", "enter", "escape")
            assert screen.names[3] == "books"

    run(test())


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("psql", ["42"]),
        ("idle-in-tr", ["books", "web-9:22"]),
        ("unknown", ["42"]),
        ("0/42/1", ["42"]),
        ("web-9 12", ["nightly", "web-9:12", "web-9:13"]),
    ],
)
def test_what_the_filter_finds(words: str, found: list[str]) -> None:
    """It looks at names, keys in both spellings, kinds, sessions and what is odd about them."""

    async def test() -> None:
        async with running(ByHand()) as screen:
            await screen.press("slash", *("space" if c == " " else c for c in words))
            assert screen.names == found

    run(test())


def test_a_space_in_the_filter_does_not_pause() -> None:
    """What one types is text there, also k, q, and the space."""

    async def test() -> None:
        async with running(ByHand()) as screen:
            await screen.press("slash", "k", "space", "q", "d", "w")
            assert screen.app.view.words == ("k", "qdw")
            assert not screen.app.feed.paused
            assert not screen.app.view.waiting

    run(test())


def test_sorting() -> None:
    """By longest wait, age, name, number of waiters; on, back, and the other way round."""

    async def test() -> None:
        async with running(ByHand()) as screen:
            await screen.press("t", "down", "t", "down", "t")  # one line for each lock
            by_wait = ["nightly", "books", "import", "deploy", "42"]
            by_age = ["nightly", "deploy", "books", "import", "42"]
            by_name = ["books", "deploy", "import", "nightly", "42"]
            assert screen.names == by_wait
            await screen.press("s")
            assert screen.names == by_age
            assert "by age" in screen.text
            await screen.press("greater_than_sign")
            assert screen.names == by_name
            await screen.press("r")
            assert screen.names == by_name[::-1]
            assert "by name backwards" in screen.text
            await screen.press("s")
            assert screen.names == by_wait
            assert "by waiters" in screen.text
            await screen.press("less_than_sign", "less_than_sign")
            assert screen.names == by_age

    run(test())


def test_a_click_on_a_head_sorts_and_one_on_a_row_selects() -> None:
    """The mouse does what the keys do; a second click opens the details."""

    async def test() -> None:
        async with running(ByHand()) as screen:
            await screen.pilot.click("#table", offset=(3, 0))
            assert screen.app.view.sort == "name"
            assert screen.names[0] == "books"
            await screen.pilot.click("#table", offset=(3, 0))
            assert screen.app.view.backwards
            await screen.pilot.click("#table", offset=(3, 4))
            assert screen.app.table.cursor == 3
            await screen.pilot.click("#table", offset=(3, 4))
            assert isinstance(screen.app.screen, Full)

    run(test())


def test_only_waiters() -> None:
    """`w` hides what nobody waits for, and shows it again."""

    async def test() -> None:
        async with running(ByHand()) as screen:
            await screen.press("w")
            assert set(LOCKS) <= set(screen.names)
            await screen.press("end")
            assert screen.here == "web-9:33"
            assert "waiters only" in screen.text
            await screen.press("w", "end")
            assert screen.here == "42"
        async with running(ByHand(), waiting=True) as screen:
            assert "waiters only" in screen.text

    run(test())


def test_folding() -> None:
    """Left folds, right unfolds, `t` does either; from a waiter the cursor goes to its lock."""

    async def test() -> None:
        async with running(ByHand()) as screen:
            await screen.press("down", "left")
            assert screen.here == "nightly"
            assert screen.names[:2] == ["nightly", "books"]
            assert "▸ nightly" in screen.text
            await screen.press("right")
            assert screen.names[:2] == ["nightly", "web-9:12"]
            await screen.press("t")
            assert screen.names[1] == "books"
            await screen.press("t")
            assert screen.names[1] == "web-9:12"

    run(test())


def test_pause_keeps_the_picture() -> None:
    """While paused nothing changes, and the head says so; Space goes on."""

    async def test() -> None:
        source = ByHand()
        async with running(source) as screen:
            await screen.press("space")
            source.seen = snapshot(tree("new", holder(1)))
            await screen.shows("paused")
            screen.app.feed.look_now()  # an answer that was under way already
            await screen.until(lambda: source.looks > 1)
            await screen.pilot.pause()
            assert screen.names[0] == "nightly"
            await screen.press("space")
            await screen.until(lambda: screen.names == ["new"])
            assert "paused" not in screen.text

    run(test())


def test_all_databases() -> None:
    """`a` looks at those of other databases, too, and says which lock is whose."""

    async def test() -> None:
        source = ByHand()
        async with running(source) as screen:
            assert "DATABASE" not in screen.text
            await screen.press("a")
            await screen.shows("DATABASE")
            assert source.asked == [False, True]
            assert "all databases" in screen.text
            await screen.press("a")
            await screen.until(lambda: "DATABASE" not in screen.text)

    run(test())


def test_how_often_it_looks() -> None:
    """Plus and minus choose another pause, within limits."""

    async def test() -> None:
        async with running(ByHand(), every=1.0) as screen:
            assert "every 1s" in screen.text
            await screen.press("plus")
            assert "every 2s" in screen.text
            await screen.press("minus", "minus", "minus")
            assert "every 250ms" in screen.text
            await screen.press("minus")
            assert "every 250ms" in screen.text
            await screen.press(*["equals_sign"] * 9)
            assert "every 1m" in screen.text

    run(test())


def test_details() -> None:
    """Enter shows everything with all the room there is, as it stands now; any key goes back."""

    async def test() -> None:
        source = ByHand()
        async with running(source) as screen:
            await screen.press("enter")
            assert isinstance(screen.app.screen, Full)
            await screen.shows("SELECT pg_terminate_backend(10)")
            for word in ("hashtextextended('nightly', 0)", "pg_locks", "objsubid = 1", "recorded"):
                assert word in screen.text
            later = dataclasses.replace(
                USUAL, trees=(tree("nightly", holder(77, "web-7")), *USUAL.trees[1:])
            )
            await screen.sees(source, later)
            await screen.shows("pg_terminate_backend(77)")
            await screen.press("q")
            assert not isinstance(screen.app.screen, Full)
            assert screen.app.is_running

    run(test())


def test_the_details_beside_the_table_can_be_hidden() -> None:
    """`i` hides and shows them."""

    async def test() -> None:
        async with running(ByHand()) as screen:
            assert "free it" in screen.text
            await screen.press("i")
            assert "free it" not in screen.text
            assert screen.names[-1] == "42"
            await screen.press("i")
            assert "free it" in screen.text

    run(test())


@pytest.mark.parametrize("key", ["question_mark", "h", "f1"])
def test_help(key: str) -> None:
    """The help names every key; Escape leaves it."""

    async def test() -> None:
        async with running(ByHand()) as screen:
            await screen.press(key)
            for keys, _ in KEYS:
                assert keys in screen.text
            await screen.press("escape")
            assert "NAME" in screen.text

    run(test())


def test_every_key_is_in_the_help() -> None:
    """No key does something that the help does not tell."""
    told = {word for keys, _ in KEYS for word in keys.split()}
    spelled = {
        *("f1", "f3", "f4", "f9", "f10", "h", "f", "equals_sign", "ctrl+z", "escape"),  # the same
        *("left", "right"),  # arrows
    }
    names = {
        "slash": "/",
        "greater_than_sign": ">",
        "less_than_sign": "<",
        "question_mark": "?",
        "plus": "+",
        "minus": "-",
        "space": "Space",
        "enter": "Enter",
        "ctrl+c": "Ctrl+C",
    }
    for binding in Top.BINDINGS:
        for key in binding.key.split(","):
            assert key in spelled or names.get(key, key) in told, key


def test_light_and_dark() -> None:
    """`d` changes the colours, and both have their own."""

    async def test() -> None:
        async with running(ByHand()) as screen:
            dark = screen.app.export_screenshot()
            await screen.press("d")
            await screen.pilot.pause()
            assert not screen.app.current_theme.dark
            assert screen.app.export_screenshot() != dark
            await screen.press("d")
            assert screen.app.current_theme.dark
        async with running(ByHand(), light=True) as screen:
            assert not screen.app.current_theme.dark

    run(test())


def test_copy() -> None:
    """`y` copies the SQL that ends the session; for a lock that is shared, one for each."""

    async def test() -> None:
        async with running(ByHand()) as screen:
            await screen.press("y")
            assert screen.app.clipboard == "SELECT pg_terminate_backend(10)"
            await screen.press(*["down"] * 5, "y")
            assert screen.app.clipboard == (
                "SELECT pg_terminate_backend(30); SELECT pg_terminate_backend(31)"
            )

    run(test())


@pytest.mark.parametrize("key", ["q", "f10", "ctrl+c", "ctrl+q"])
def test_quitting(key: str) -> None:
    """Each of the usual keys ends it, also while the filter has the focus or nothing is there."""

    async def test() -> None:
        async with running(ByHand(snapshot())) as screen:
            if key.startswith("ctrl"):
                await screen.press("slash")
            await screen.pilot.press(key)
            await screen.until(lambda: not screen.app.is_running)

    run(test())


# -- the question before a session is ended --------------------------------------------------------


def test_the_question_shows_exactly_what_it_is_about() -> None:
    """The session, the lock, who waits, what comes then; the button that does nothing is chosen."""

    async def test() -> None:
        async with running(ByHand(), (100, 40)) as screen:
            await screen.press("k")
            assert isinstance(screen.app.screen, Kill)
            for words in (
                "End server session 10?",
                "holds nightly",
                "web-1 pid 11",
                "web-9 pid 12",
            ):
                assert words in screen.text
            assert screen.app.focused is not None
            assert screen.app.focused.id == "no"
            await screen.press("enter")
            assert not isinstance(screen.app.screen, Kill)
            assert not screen.app._doing

    run(test())


@pytest.mark.parametrize("key", ["n", "escape", "q"])
def test_no_is_no(key: str) -> None:
    """Every way out of the question but two does nothing."""

    async def test() -> None:
        async with running(ByHand()) as screen:
            await screen.press("f9", key)
            assert not isinstance(screen.app.screen, Kill)
            assert screen.app.is_running
            assert not screen.app._doing

    run(test())


def test_an_idle_session_has_nothing_to_cancel() -> None:
    """Then `c` does nothing, and the question says why."""

    async def test() -> None:
        async with running(ByHand(), (100, 40)) as screen:
            await screen.press("k", "c")
            assert isinstance(screen.app.screen, Kill)
            assert "nothing to cancel" in screen.text

    run(test())


def test_nothing_jumps_while_the_question_is_open() -> None:
    """What it shows stays; afterwards the newest picture is there."""

    async def test() -> None:
        source = ByHand()
        async with running(source) as screen:
            await screen.press("k")
            await screen.sees(source, snapshot(tree("nightly", holder(99, "other"))))
            assert "End server session 10?" in screen.text
            assert screen.app.table.row is not None
            assert screen.app.table.row.who == USUAL.trees[0].holders[0]
            await screen.press("n")
            assert screen.names == ["nightly"]
            await screen.shows("other")

    run(test())


async def _refused(screen: Screen, words: str) -> None:
    await screen.press("k")
    assert not isinstance(screen.app.screen, Kill)
    await screen.told(words)


def test_it_refuses_when_it_is_not_clear_who_is_meant() -> None:
    """On the line of a lock that several share; on one of theirs it asks."""

    async def test() -> None:
        async with running(ByHand()) as screen:
            await screen.press(*["down"] * 5)
            await _refused(screen, "2 sessions share import: move to the one that you")
            await screen.press("down", "k")
            assert isinstance(screen.app.screen, Kill)

    run(test())


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        (snapshot(), "there is nothing under the cursor"),
        (snapshot(tree("a", waiter(1, 2))), "nobody holds a"),
        (
            snapshot(tree("a", holder(0, host=None, query="PREPARE TRANSACTION 'x'"))),
            "ROLLBACK PREPARED 'x'",
        ),
    ],
    ids=["nothing", "nobody", "prepared"],
)
def test_it_refuses_where_there_is_no_session(seen: Snapshot, words: str) -> None:
    """There may be no lock, no holder, or one without a session."""

    async def test() -> None:
        async with running(ByHand(seen)) as screen:
            await _refused(screen, words)

    run(test())


# -- the cursor stays ------------------------------------------------------------------------------


def test_the_cursor_stays_on_its_lock_when_rows_move() -> None:
    """A lock that gets waiters goes to the top; the cursor is on the same lock as before."""

    async def test() -> None:
        source = ByHand()
        async with running(source) as screen:
            await screen.press(*["down"] * 9)
            assert screen.here == "deploy"
            busy = tree("deploy", holder(40, "ci-7"), waiter(41, 9000))
            await screen.sees(source, dataclasses.replace(USUAL, trees=(*USUAL.trees[:3], busy)))
            assert screen.names[0] == "deploy"
            assert screen.app.table.cursor == 0
            assert screen.here == "deploy"

    run(test())


def test_the_cursor_stays_on_its_session() -> None:
    """Also on a waiter that becomes the holder of its lock, and when its number is used again."""

    async def test() -> None:
        first, second = holder(1, connected=ago(100)), waiter(2, 50, connected=ago(90))
        third = waiter(3, 20, connected=ago(80))
        source = ByHand(snapshot(tree("a", first, second, third), tree("b", holder(9))))
        async with running(source) as screen:
            await screen.press("down", "down")
            assert screen.here == "web-9:4"
            await screen.sees(source, snapshot(tree("a", second, third), tree("b", holder(9))))
            assert screen.here == "web-9:4"
            again = waiter(3, 1, connected=ago(1), host="other")
            trees = tree("a", first, second, again), tree("b", holder(9))
            await screen.sees(source, snapshot(*trees))
            assert screen.here == "a"

    run(test())


def test_what_one_reads_does_not_scroll_away() -> None:
    """Rows come in above: the row under the cursor stays where it is on the screen."""

    async def test() -> None:
        many = [tree(f"lock-{n:03}", holder(n + 1)) for n in range(300)]
        source = ByHand(snapshot(*many))
        async with running(source) as screen:
            await screen.press(*["pagedown"] * 5, *["up"] * 4)
            line = next(n for n, row in enumerate(screen.table) if screen.here in row)
            here = screen.here
            more = [tree(f"a{n}", holder(900 + n)) for n in range(7)]
            await screen.sees(source, snapshot(*more, *many))
            assert screen.here == here
            assert here in screen.table[line]

    run(test())
