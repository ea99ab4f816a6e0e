"""What a key is called: who is believed, and before whom. No server is needed for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advlock import Key, Registry, _label
from advlock._catalogue._entry import Known
from advlock._inspect._asked import asked
from advlock._inspect._naming import Namer, Naming, Recorded, Signed
from advlock._registry._entry import Entry
from advlock.errors import ConfigError

if TYPE_CHECKING:
    from advlock._inspect._naming import Columns

REGISTERED = Entry("nightly", "the report", "data team")
TEMPLATE = Entry("user:{id}", "a user's cart", "shop")
FIXED = Entry("legacy", "the old job", "ops", key=Key.of((7, 42)))


@dataclass
class FakeCatalogue:
    """Knows one key, as these tools'."""

    key: Key
    known: tuple[Known, ...]

    def identify(self, *columns: int) -> tuple[Known, ...]:
        """As the real one."""
        return self.known if columns == columns_of(self.key) else ()


def columns_of(key: Key) -> Columns:
    """As pg_locks shows it."""
    return key.classid, key.objid, key.objsubid


def known(tool: str, *, certain: bool = True) -> Known:
    """What a catalogue says."""
    return Known(tool, f"what {tool} does", "somewhere", certain)


def label(application: str) -> _label.Label:
    """Read a signature."""
    parsed = _label.parse(application)
    assert parsed is not None
    return parsed


def signed(name: str, *, single: bool = True) -> Signed:
    """A session that signed a name."""
    return Signed(label(f"advlock:{name} web-2:4242 @t8x3k1"), single)


NIGHTLY = Key.of("nightly")
SOURCES = ("registry", "recorded", "signed", "asked", "catalogue")


@given(st.sets(st.sampled_from(SOURCES)))
def test_the_registry_comes_first_and_the_catalogue_last(present: set[str]) -> None:
    """Whoever else speaks: the first in this order is believed, and nobody makes it unknown."""
    catalogue = FakeCatalogue(NIGHTLY, (known("tool"),)) if "catalogue" in present else None
    registry = Registry([REGISTERED]) if "registry" in present else None
    namer = Namer(registry, catalogue)  # type: ignore[arg-type]
    naming = namer.name(
        columns_of(NIGHTLY),
        [Recorded("nightly")] if "recorded" in present else (),
        [signed("nightly")] if "signed" in present else (),
        {NIGHTLY: Naming(NIGHTLY, "nightly")} if "asked" in present else None,
    )
    if "registry" in present:
        expected = ("registered", "nightly", "the report", "data team")
    elif present & {"recorded", "signed"}:
        expected = ("recorded", "nightly", "", "")
    elif "asked" in present:
        expected = ("unknown", "nightly", "", "")
    elif "catalogue" in present:
        expected = ("well-known", "tool", "what tool does", "")
    else:
        expected = ("unknown", None, "", "")  # type: ignore[assignment]
    assert (naming.kind, naming.name, naming.description, naming.owner) == expected
    assert naming.key == NIGHTLY


@given(st.text(min_size=1, max_size=20), st.integers(0, 70), st.booleans())
def test_only_a_name_that_makes_the_key_is_believed(name: str, seed: int, honest: bool) -> None:
    """Whatever was recorded: the name of another key does not name this one."""
    try:
        key = Key.slot(name, seed)
    except ConfigError:  # it cannot be a name
        return
    told = Recorded(name if honest else name + "!", "hashtextextended", seed)
    naming = Namer().name(columns_of(key), [told])
    shown = f"{name} (slot {seed})" if seed else name
    assert (naming.kind, naming.name) == (("recorded", shown) if honest else ("unknown", None))


def test_a_lying_signature_names_nothing() -> None:
    """Everybody may set application_name: a name that does not hash to the key is not believed."""
    for single in (True, False):
        naming = Namer().name(columns_of(NIGHTLY), (), [signed("other", single=single)])
        assert (naming.kind, naming.name) == ("unknown", None)


@pytest.mark.parametrize("slot", [0, 1, 63])
def test_a_signature_names_the_slots_of_a_semaphore(slot: int) -> None:
    """`advlock run --slots` signs the semaphore's name; which slot it is, the hash tells."""
    key = Key.slot("encode", slot)
    naming = Namer().name(columns_of(key), (), [signed("encode", single=False)])
    assert naming.name == (f"encode (slot {slot})" if slot else "encode")
    assert naming.key is not None
    assert (naming.key.name, naming.key.seed) == ("encode", slot)


def test_what_cannot_be_verified_counts_for_the_only_lock() -> None:
    """A name that was cut, or is not ASCII: shown as such, and only where no other is meant."""
    for name in ("x" * 60, "größe"):
        application = _label.make(name, since=1.0)
        parsed = label(application)
        assert not parsed.complete
        key = Key.of(name)
        alone = Namer().name(columns_of(key), (), [Signed(parsed, single=True)])
        assert (alone.kind, alone.name) == ("recorded", f"{parsed.name}…")
        among = Namer().name(columns_of(key), (), [Signed(parsed, single=False)])
        assert (among.kind, among.name) == ("unknown", None)
        recorded = Namer().name(columns_of(key), [Recorded(name)], [Signed(parsed, single=True)])
        assert recorded.name == name


def test_a_template_matches_what_was_recorded_or_signed() -> None:
    """The registry describes names that only the process knew."""
    namer = Namer(Registry([TEMPLATE]))
    key = Key.of("user:42")
    for told in ({"recorded": [Recorded("user:42")]}, {"signed": [signed("user:42")]}):
        naming = namer.name(columns_of(key), **told)  # type: ignore[arg-type]
        assert (naming.kind, naming.name, naming.owner) == ("registered", "user:42", "shop")
    assert namer.name(columns_of(key)).kind == "unknown"


def test_a_fixed_key_is_the_registry_s() -> None:
    """Of numbers only the registry knows what they are."""
    naming = Namer(Registry([FIXED])).name(columns_of(Key.of((7, 42))))
    assert (naming.kind, naming.name, naming.key) == ("registered", "legacy", Key.of((7, 42)))


def test_names_that_meet_are_all_told() -> None:
    """Two names with one key, which `hashtext` has: the one that was signed comes first."""
    names = ["job:11352", "job:189279"]
    keys = [Key.hashtext(name) for name in names]
    assert keys[0] == keys[1]
    told = [Recorded(name, "hashtext") for name in names]
    for name in names:
        naming = Namer().name(columns_of(keys[0]), told, [signed(name)])
        assert naming.name == name
        assert sorted(naming.candidates) == sorted(names)
    entries = [Entry(name, scheme="hashtext") for name in names]
    naming = Namer(Registry(entries)).name(columns_of(keys[0]), told[1:])
    assert (naming.name, naming.candidates) == (names[1], tuple(names))


@pytest.mark.parametrize(
    ("tools", "name", "count"),
    [
        ([known("one")], "one", 0),
        ([known("one", certain=False)], None, 1),
        ([known("one"), known("two", certain=False)], "one", 2),
        ([known("one"), known("two")], None, 2),
        ([known("one", certain=False), known("two", certain=False)], None, 2),
    ],
)
def test_several_tools_with_one_key(tools: list[Known], name: str | None, count: int) -> None:
    """Ambiguity is told: a name only where one tool is certain, and all that it may be."""
    key = Key.of(65535)
    namer = Namer(None, FakeCatalogue(key, tuple(tools)))  # type: ignore[arg-type]
    naming = namer.name(columns_of(key))
    assert (naming.kind, naming.name) == ("well-known", name)
    assert naming.candidates == (tuple(map(str, tools)) if count else ())


def test_names_do_not_cross_databases() -> None:
    """What is registered, recorded, asked for or computed here says nothing about there."""
    here = FakeCatalogue(NIGHTLY, (known("here"),))
    there = FakeCatalogue(NIGHTLY, (known("there"),))
    made = Namer(Registry([REGISTERED]), here, lambda name: there if name == "b" else None)  # type: ignore[arg-type, return-value]
    assert made.name(columns_of(NIGHTLY)).name == "nightly"
    assert made.name_elsewhere(columns_of(NIGHTLY), "b").name == "there"
    assert made.name_elsewhere(columns_of(NIGHTLY), "c") == Naming(NIGHTLY)


def test_the_server_s_encoding_makes_the_key() -> None:
    """A name is verified by the bytes that the server hashed."""
    latin = Key.of("größe", encoding="iso8859-1")
    namer = Namer(Registry([Entry("größe")]))
    for encoding, kind in (("utf-8", "unknown"), ("iso8859-1", "registered"), ("utf-8", "unknown")):
        namer.speak(encoding)
        assert namer.name(columns_of(latin), [Recorded("größe")]).kind == kind


# -- what somebody looks for -----------------------------------------------------------------------


def test_a_name_means_both_schemes_and_all_slots() -> None:
    """Who looks for a name finds its lock however it was made."""
    keys = asked(["encode"])
    wanted = [Key.of("encode"), Key.hashtext("encode"), Key.slot("encode", 3)]
    assert [keys[key].name for key in wanted] == ["encode", "encode", "encode (slot 3)"]
    assert keys[Key.slot("encode", 3)] in asked(["encode (slot 3)"]).values()
    assert Key.slot("encode", 700) in asked(["encode (slot 700)"])


def test_a_name_means_what_the_registry_says() -> None:
    """A fixed key; and the namespace of the registry."""
    registry = Registry([FIXED, Entry("nightly", namespace="billing")], namespace="billing")
    assert list(asked(["legacy"], registry=registry)) == [Key.of((7, 42))]
    assert Key.of("billing:nightly") in asked(["nightly"], registry=registry)
    assert Key.of("shop:other") in asked(["other"], namespace="shop", registry=registry)


def test_a_name_means_what_other_tools_make_of_it() -> None:
    """Who looks for the name of an application's lock finds it under a foreign formula, too."""
    others = [naming for naming in asked(["nightly"]).values() if naming.kind == "well-known"]
    assert others
    assert all("as " in naming.description for naming in others)
    assert asked([(1, 2), 42]).keys() == {Key.of((1, 2)), Key.of(42)}
