"""The public surface is a file that a review can see change."""

from __future__ import annotations

import inspect
import os
import typing
from pathlib import Path
from typing import Any

import advlock

LISTING = Path(__file__).with_name("public_api.txt")


def _members(cls: type) -> list[str]:
    lines = []
    for name, member in sorted(inspect.getmembers(cls)):
        if name.startswith("_") or not getattr(member, "__module__", "advlock").startswith(
            "advlock"
        ):
            continue
        if inspect.isfunction(member) or inspect.ismethod(member):
            prefix = "async " if inspect.iscoroutinefunction(member) else ""
            lines.append(f"  {prefix}{name}{inspect.signature(member)}")
        elif isinstance(member, property) or inspect.isdatadescriptor(member):
            lines.append(f"  {name}")
    return lines


def _describe(name: str, thing: Any) -> list[str]:
    if isinstance(thing, type) and issubclass(thing, BaseException):
        bases = ", ".join(base.__name__ for base in thing.__bases__)
        return [f"error {name}({bases})", *(f"  {field}" for field in _fields(thing))]
    if typing.is_typeddict(thing):
        return [
            f"fields {name}",
            *(f"  {f}: {t.__forward_arg__}" for f, t in thing.__annotations__.items()),
        ]
    if isinstance(thing, type):
        own = inspect.signature(thing) if thing.__init__ is not object.__init__ else "()"
        return [f"class {name}{own}", *_members(thing)]
    return [f"def {name}{inspect.signature(thing)}"]


def _fields(error: type) -> list[str]:
    return sorted(f for cls in error.__mro__ for f in vars(cls).get("__annotations__", {}))


def test_the_public_api_is_the_one_on_file() -> None:
    """Every public name with its signature; ADVLOCK_REGEN=1 writes the file anew."""
    described = [_describe(name, getattr(advlock, name)) for name in advlock.__all__]
    listing = "\n\n".join("\n".join(lines) for lines in described) + "\n"
    if os.environ.get("ADVLOCK_REGEN"):
        LISTING.write_text(listing)

    assert LISTING.read_text() == listing


def test_public_names_say_that_they_are_advlock_s() -> None:
    """Tracebacks and the docs show the door, not the corridor."""
    for name in advlock.__all__:
        assert getattr(advlock, name).__module__ == "advlock", name


def test_the_list_of_names_is_sorted_and_complete() -> None:
    """`__all__` is in order, and every name can be had."""
    assert sorted(advlock.__all__) == advlock.__all__
    assert set(advlock.__all__) <= set(dir(advlock))


def test_the_version_is_the_package_s() -> None:
    """`advlock.__version__` is what was installed."""
    assert advlock.__version__.count(".") == 2
