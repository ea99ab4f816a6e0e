"""Transaction-level locks on Django's own connection, inside `transaction.atomic()`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.db import connections
from django.db.transaction import TransactionManagementError

from advlock import _xact, _xact_plan
from advlock._client import wait_seconds
from advlock._key import Key, pg_encoding
from advlock.django import _clients
from advlock.django._address import check_alias
from advlock.errors import ConfigError

if TYPE_CHECKING:
    from advlock._client import Seconds
    from advlock._key import Name


class OutsideAtomicError(ConfigError, TransactionManagementError):
    """No transaction is there to hold the lock."""


def xact_lock(
    name: Name, *, using: str = "default", wait: Seconds = None, shared: bool = False
) -> None:
    """Lock `name` in the database until the transaction of `atomic()` ends.

    It costs no connection, works behind every pooler, and is released with COMMIT or ROLLBACK, so
    whoever gets it next sees what was written. A lock taken in an inner `atomic()`, which is a
    savepoint, is released when that one is rolled back. After a timeout the transaction is usable.

    Args:
        name: A string, a 64-bit integer, or a pair of 32-bit integers.
        using: An alias of `DATABASES` whose engine is PostgreSQL.
        wait: How long to wait, in seconds or as `"30s"`; None for ever.
        shared: Share it with other shared holders.

    Raises:
        LockTimeout: it was not free in time.
        ConfigError: there is no `atomic()` around it; Django's TransactionManagementError, too.
            In a `TestCase`, which is in a transaction itself, it takes one of your own.
        UnsafeServer: the server is a read replica.
    """
    wrapper = _in_atomic(using)
    plan = _xact_plan.wait(_key(wrapper, name, using), name, wait_seconds(wait), shared=shared)
    with wrapper.wrap_database_errors:
        _xact._run(wrapper.connection, plan)


def try_xact_lock(name: Name, *, using: str = "default", shared: bool = False) -> bool:
    """Lock `name` until the transaction ends, if it is free; tell whether it is ours.

    Parameters and errors are those of `xact_lock`.
    """
    wrapper = _in_atomic(using)
    plan = _xact_plan.try_lock(_key(wrapper, name, using), shared=shared)
    with wrapper.wrap_database_errors:
        return bool(_xact._run(wrapper.connection, plan))


def _in_atomic(using: str) -> Any:
    check_alias(using)
    wrapper = connections[using]
    # A TestCase's own transaction is not the code's: in production nothing would be around it.
    inside = any(not block._from_testcase for block in wrapper.atomic_blocks)
    if not inside and (wrapper.in_atomic_block or wrapper.get_autocommit()):
        where = "" if using == "default" else f"using={using!r}"
        raise OutsideAtomicError(
            f"no transaction is there to hold the lock. Wrap the work: "
            f"`with transaction.atomic({where}):`, then xact_lock inside it"
        )
    wrapper.validate_no_broken_transaction()
    wrapper.ensure_connection()
    _xact._check_server(wrapper.connection)
    return wrapper


def _key(wrapper: Any, name: Name, using: str) -> Key:
    """Make the key that `locks(using)` makes of a name: one lock, whichever way it is taken."""
    client = _clients.locks(using)
    spelling = wrapper.connection.info.parameter_status("server_encoding") or "UTF8"
    encoding = pg_encoding(spelling)
    if client._names is not None:
        found = client._names.key(name, encoding)
        assert found is not None  # the encoding is known
        return found
    return Key.of(name, namespace=client.namespace, encoding=encoding, scheme=client.keys)
