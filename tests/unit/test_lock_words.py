"""What `why` says, word for word, of locks made by hand."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from lock_trees import AT, ago, ours, seen, theirs, tree, waiter

from advlock._inspect._kill import targets
from advlock._inspect._tree import LockTree
from advlock._inspect._why import consequence, explain, free, spelled
from advlock._key import Key

SINCE = f"{ago(720).astimezone():%H:%M:%S}"


def said(one: LockTree, *others: LockTree) -> str:
    """The paragraph about a lock."""
    return explain(one, seen(one, *others))


def test_held_and_waited_for() -> None:
    """Who, since when, where; who waits; what the holder does; and what if it is ended."""
    holder = ours(
        8812,
        4242,
        client="10.0.0.5:41234",
        state="idle in transaction",
        state_since=ago(300),
        query="UPDATE invoice\n  SET paid = true",
    )
    first = waiter(8813, 8812, host="web-1", process=99, since=ago(718))
    one = tree(holders=(holder,), waiters=(first, waiter(8814, 8812, 8813)))
    assert said(one) == (
        f"nightly is held by web-1 pid 4242 for 12m (since {SINCE}), in server session 8812 (role"
        " app, from 10.0.0.5:41234). Two sessions wait for it; the first is web-1 pid 99, for"
        " 11m58s. The holder is idle in transaction for 5m; its last query was: UPDATE invoice SET"
        " paid = true. If you end it (advlock kill nightly), one of the two sessions that wait gets"
        " the lock (in no fixed order: they ask anew every half second)."
    )


def test_held_and_not_waited_for() -> None:
    """A holder of ours that idles is as it should be, so nothing is said about that."""
    heartbeat = ours(8812, 4242, state_since=ago(2), query="/* advlock: heartbeat */")
    assert said(tree(holders=(heartbeat,))) == (
        f"nightly is held by web-1 pid 4242 for 12m (since {SINCE}), in server session 8812 (role"
        " app). Nobody waits for it. If you end it (advlock kill nightly), the lock is free."
    )


def test_a_foreign_session_and_an_unknown_key() -> None:
    """Since when it is held nobody knows, and what for neither; both are said."""
    holder = theirs(77, state_since=ago(65), query="select pg_advisory_lock(42);")
    only = waiter(78, 77)
    assert said(tree(42, holders=(holder,), waiters=(only,))) == (
        "The lock 42 (0/42/1 in pg_locks) is held by psql, in server session 77 (role ops, since"
        " when is not known). What it is for, neither the registry nor the list of well-known locks"
        " says. One session waits for it: app78 (server session 78), for 1m. The holder is idle"
        " for 1m05s; its last query was: select pg_advisory_lock(42);. If you end it (advlock kill"
        " 42), app78 (server session 78) gets the lock next."
    )


def test_what_a_role_may_not_see_is_said_to_be_hidden() -> None:
    """No state and no address: the role that asks may not see them."""
    holder = dataclasses.replace(ours(5, 6), state=None)
    text = said(tree(holders=(holder,), waiters=(waiter(7, 5, since=None),)))
    assert "What the holder does is hidden from this role." in text
    assert "app7 (server session 7), since when is hidden." in text


def test_shared_by_several() -> None:
    """Ending one does not free it, so the paragraph says how to choose one."""
    holders = tuple(theirs(pid, shared=True) for pid in (1, 2, 3, 4, 5))
    queue = (waiter(6, 1, 2, 3, 4, 5), waiter(7, 6, shared=True))
    text = said(tree(holders=holders, waiters=queue))
    assert text.startswith("nightly is held in shared mode by five sessions: psql, in server")
    assert "; 2 more. " in text
    assert "app7 (server session 7) waits only for others that wait, not for a holder." in text
    assert "It is free only when all of them have let go." in text
    assert text.endswith("To end one of them: advlock kill --pid PID nightly.")


def test_many_shared_holders_are_counted() -> None:
    """Beyond nine, numbers are figures."""
    text = said(tree(holders=tuple(theirs(pid, shared=True) for pid in range(1, 15))))
    assert "by 14 sessions:" in text


def test_a_registered_lock_has_a_purpose_and_an_owner() -> None:
    """The registry's words are passed on."""
    one = tree(kind="registered", description="The nightly bill run.", owner="billing@example.com")
    one = dataclasses.replace(one, holders=(ours(1, 2),))
    assert "It is for: The nightly bill run. Its owner is billing@example.com." in said(one)


def test_a_tool_s_lock_is_named() -> None:
    """A well-known lock is its tool's, or one of several tools'."""
    prisma = tree(
        72707369,
        called="Prisma Migrate",
        kind="well-known",
        description="all commands that lock",
        holders=(theirs(1),),
    )
    assert "That is a tool's own lock: all commands that lock." in said(prisma)
    linked = explain(prisma, seen(prisma), source="https://example.com/x")
    assert "all commands that lock; see https://example.com/x." in linked
    several = ("Rails: migrations", "sqlx: migrations")
    text = said(tree(7, kind="well-known", candidates=several, holders=(theirs(1),)))
    assert "Its key is that of several: Rails: migrations; sqlx: migrations." in text
    text = said(tree(7, kind="well-known", candidates=several[:1], holders=(theirs(1),)))
    assert "Perhaps it is a tool's own lock: Rails: migrations." in text


def test_a_cron_job_s_lock_leads_to_its_history() -> None:
    """What a run is about, the cron's own command says."""
    text = said(tree("cron:bills", holders=(ours(1, 2),)))
    assert "It is the lock of a cron job; advlock cron why bills tells" in text
    text = said(tree("cron:bills@2026-11-26T03:00:00+00:00", holders=(ours(1, 2),)))
    assert "; advlock cron why bills --at 2026-11-26T03:00:00+00:00 tells" in text


def test_who_waits_for_itself_is_told() -> None:
    """One process, two sessions: the server sees no deadlock, and it never ends."""
    queue = (waiter(9, 8, host="web-1", process=4242),)
    text = said(tree(holders=(ours(8, 4242),), waiters=queue))
    assert "web-1 pid 4242 waits for itself: it holds the lock on server session 8" in text
    upgrade = tree(holders=(theirs(1, shared=True),), waiters=(waiter(1, 2),))
    assert "Server session 1 waits for what it shares itself" in said(upgrade)


def test_between_two_holders_it_is_about_to_be_granted() -> None:
    """A queue without a holder is a moment of the hand-over."""
    text = said(tree(waiters=(waiter(9),)))
    assert text.startswith("Nobody holds nightly at this moment, and it is about to be granted.")


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("ghost", "seems to be a ghost"),
        ("pinned", "is lent by a pooler"),
        ("idle-pooled", "left the lock on it"),
        ("holds-back-vacuum", "VACUUM"),
    ],
)
def test_what_is_odd_is_explained(flag: str, words: str) -> None:
    """A flag is a word in a column; here it is a sentence."""
    assert words in said(tree(holders=(theirs(1, flags=(flag,)),)))


def test_a_prepared_transaction_has_no_session_to_end() -> None:
    """It is ended by name, and not by a process."""
    holder = theirs(0, application="it's", user="app", state=None, flags=("prepared",))
    text = said(tree(42, holders=(holder,)))
    assert "is held by the prepared transaction 'it''s' (role app, since" in text
    assert text.endswith("Nothing but ROLLBACK PREPARED 'it''s', in its database, ends it.")
    assert "advlock kill" not in text


def test_what_else_is_freed() -> None:
    """A session that ends lets go of everything, so all of that is named."""
    holder = theirs(1)
    one = tree(holders=(holder,))
    others = [tree(f"other-{n}", holders=(holder,)) for n in range(6)]
    (target,) = targets([one], [one, *others])
    assert target.others == tuple(others)
    assert consequence(target) == (
        "the lock is free; six other locks that it holds are freed as well (other-0, other-1,"
        " other-2, 3 more)"
    )


def test_readers_at_the_head_of_the_queue_get_it_together() -> None:
    """The server grants it to all that can share it, up to the first that cannot."""
    queue = (waiter(2, shared=True), waiter(3, shared=True), waiter(4), waiter(5, shared=True))
    text = said(tree(holders=(theirs(1),), waiters=queue))
    assert (
        "app2 (server session 2) and app3 (server session 3) get the lock next, and share it."
        in text
    )


def test_a_lock_of_the_same_name_elsewhere_is_another_one() -> None:
    """The same process number in the other tree is the same session, and the name says nothing."""
    mine = tree(key=Key.of("nightly"), holders=(theirs(1),))
    same = tree(key=Key.hashtext("nightly"), holders=(theirs(1),))
    assert targets([mine], [mine, same])[0].others == (same,)


def test_ending_one_of_several_leaves_it_taken() -> None:
    """The others share it still."""
    one = tree(holders=tuple(theirs(pid, shared=True) for pid in (1, 2, 3)), waiters=(waiter(4),))
    first, *_ = targets([one], [one])
    assert consequence(first) == "two other sessions still share it"
    (waiting,) = targets([one], [one], 4)
    assert consequence(waiting) == "nightly stays with who holds it"


@pytest.mark.parametrize(
    ("one", "typed"),
    [
        (tree("nightly"), "nightly"),
        (tree("two words"), "'two words'"),
        (tree("--yes"), "-- --yes"),
        (tree("it's; rm -rf /"), "'it'\"'\"'s; rm -rf /'"),
        (tree("evil\x1b[31m"), "{address}"),
        (tree("Nächtlich"), "{address}"),
        (tree(42, called=""), "''"),
        (tree(42), "42"),
        (tree((1, -2)), "1,-2"),
        (tree(-42), "4294967295/4294967254/1"),
        (LockTree(7, 8, 9, None, "app"), "7/8/9"),
    ],
)
def test_what_to_type_is_quoted_for_the_shell(one: LockTree, typed: str) -> None:
    """It is copied at three in the morning, so it has to be right, and harmless."""
    assert spelled(one) == typed.format(address=f"{one.classid}/{one.objid}/{one.objsubid}")


def test_free() -> None:
    """Nobody holds it: then what is known of it, and what was probably meant."""
    assert free("nightyl", "app", close=["nightly", "nightly-2"]) == (
        "nightyl is free: nobody holds it in database app, and nobody waits for it. Of the locks"
        " that are held, did you mean nightly or nightly-2?"
    )
    known: dict[str, Any] = {"description": "Bills.", "owner": "ann", "key": "hashtext('x')"}
    assert free("x", "app", **known).endswith(
        "It is for: Bills. Its owner is ann. Its key would be hashtext('x')."
    )


def test_a_long_query_is_cut() -> None:
    """A query of a megabyte does not fill the screen."""
    holder = theirs(1, state="active", query="SELECT " + "x" * 10**6)
    assert len(said(tree(holders=(holder,)), tree(7))) < 600
    assert AT
