"""Templates: what they match, and whether two match the same name."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advlock._registry import _template

# Few letters, so that two templates have something in common more often than not.
PIECES = st.one_of(st.sampled_from(["a", "b", "ab", ":", "a:"]), st.just("{}"))


def _written(pieces: list[str]) -> str:
    """A template, with a name for each field and no two next to each other."""
    name, last = "", ""
    for number, piece in enumerate(pieces):
        field = piece == "{}"
        if not (field and last.endswith("}")):
            last = f"{{f{number}}}" if field else piece
            name += last
    return name


TEMPLATES = st.lists(PIECES, min_size=1, max_size=6).map(_written)
VALUES = st.text("ab", min_size=1, max_size=3)


@pytest.mark.parametrize(
    ("template", "name", "matched"),
    [
        ("user:{id}", "user:7", True),
        ("user:{id}", "user:7\n", True),
        ("user:{id}", "user:é ☃", True),
        ("user:{id}", "user:", False),
        ("user:{id}", "user:7:avatar", False),
        ("user:{id}", "xuser:7", False),
        ("user:{id}", "user:{id}", True),
        ("{a}-{b}", "x-y-z", True),
        ("a.b:{id}", "axb:7", False),
    ],
)
def test_what_a_field_matches(template: str, name: str, *, matched: bool) -> None:
    """One or more characters, but no colon; everything else is itself."""
    assert _template.matches(template, name) is matched


@given(TEMPLATES, st.data())
def test_a_template_matches_its_names(template: str, data: st.DataObject) -> None:
    """Whatever is put into the fields, the name is matched; with a colon in one, it is not."""
    _template.check(template)
    name = re.sub(r"\{\w+\}", lambda _: data.draw(VALUES), template)
    assert _template.matches(template, name)
    if _template.is_template(template):
        assert not _template.matches(template, _template.filled(template, "a:" * 20))


@given(TEMPLATES, TEMPLATES)
def test_a_common_name_is_one(one: str, other: str) -> None:
    """What is told as common to two is matched by both, whichever comes first."""
    found = _template.common(one, other)
    assert (found is None) == (_template.common(other, one) is None)
    if found is not None:
        assert _template.matches(one, found)
        assert _template.matches(other, found)


@given(TEMPLATES, TEMPLATES, st.data())
def test_where_there_is_no_common_name_none_is_missed(
    one: str, other: str, data: st.DataObject
) -> None:
    """A name made of one template that the other matches, too, means that they overlap."""
    name = re.sub(r"\{\w+\}", lambda _: data.draw(VALUES), one)
    if _template.matches(other, name):
        assert _template.common(one, other) is not None


def test_the_common_name_is_the_shortest() -> None:
    """It is shown to people."""
    assert _template.common("user:{id}", "{kind}:7") == "user:7"
    assert _template.common("{a}x", "y{b}") == "yx"
    assert _template.common("user:{id}", "{x}") is None
    assert _template.common("cron:{x}", "cron:nightly") == "cron:nightly"
