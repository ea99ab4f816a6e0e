"""The promises are kept on the memory server, too: tests of tests/conformance, run against it.

They are the same functions, in both worlds; the bystanders that they watch with are connections to
the memory server as well, and what only they ask is answered by `plugin_stand_ins`.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import inspect
from typing import TYPE_CHECKING, Any, Final

import pytest
from conformance import conftest
from conformance.conftest import application, name, rival, sessions, world

from advlock.testing import MemoryServer, _answers

from .plugin_stand_ins import statements

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.newest

__all__ = ["application", "name", "rival", "sessions", "world"]

SELECTED: Final = {
    "test_connections": [
        "test_a_waiting_lock_costs_one_more",
        "test_waiters_beyond_the_budget_share_the_first",
    ],
    "test_entries": ["test_a_decorated_hold_times_out", "test_reentrance_goes_by_actor"],
    "test_exclusion": [
        "test_attempts_race_for_one_place",
        "test_one_at_a_time",
        "test_readers_of_one_client_make_way_for_a_writer",
        "test_sharers_share_and_keep_an_exclusive_holder_out",
        "test_sql_and_we_exclude_each_other",
    ],
    "test_hold_all": [
        "test_opposite_orders_do_not_deadlock",
        "test_some_are_shared",
        "test_who_waits_holds_nothing_out_of_order",
    ],
    "test_leader": ["test_one_leads_and_the_other_follows", "test_resigning_from_elsewhere"],
    "test_lock_object": ["test_a_condition_over_it", "test_release_is_sent_at_once"],
    "test_loss": [
        "test_every_hold_of_the_session_is_lost",
        "test_on_lost_is_called_once",
        "test_the_next_use_reconnects",
    ],
    "test_release": ["test_a_dropped_hold_is_released", "test_close_wakes_the_waiters"],
    "test_semaphore": [
        "test_disagreement_is_refused",
        "test_nobody_overtakes",
        "test_so_many_and_no_more",
    ],
    "test_timeouts": ["test_a_timeout_says_who_holds_the_lock", "test_holders_shows_the_queue"],
    "test_waiting": ["test_waiters_of_other_clients_are_all_served"],
    "test_xact": [
        "test_it_ends_with_the_transaction",
        "test_numbers_and_pairs_are_the_servers_own",
        "test_the_callers_lock_timeout_is_put_back",
    ],
}


def _run(test: Callable[..., Any]) -> Callable[..., None]:
    """Make a plain function of a coroutine function: the loop is ended with its world."""

    @functools.wraps(test)
    def run(**arguments: Any) -> None:
        asyncio.run(conftest._to_its_end(test, arguments))

    return run


for _module, _names in SELECTED.items():
    _tests = vars(importlib.import_module(f"conformance.{_module}"))
    for _name in _names:
        assert inspect.iscoroutinefunction(_tests[_name]), _name
        globals()[_name] = _run(_tests[_name])


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    """The memory server, instead of a database of a real one."""
    with pytest.MonkeyPatch.context() as patch, MemoryServer() as server:
        for text, answer in statements().items():
            patch.setitem(_answers.KNOWN, text, answer)
        yield server.dsn


@pytest.fixture(scope="module")
def dsn(database: str) -> str:
    """The straight way."""
    return database


@pytest.fixture
def pooler() -> None:
    """Nothing stands in between."""
