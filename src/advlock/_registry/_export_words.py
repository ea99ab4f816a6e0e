"""What the exports of all languages share: words of names, prose that is only prose. Pure."""

from __future__ import annotations

import re
import textwrap
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

    from advlock._registry._entry import Entry

_WIDTH: Final = 88
_HUMP: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_ASCII_WORD: Final = re.compile(r"[A-Za-z0-9]+")
_BMP: Final = 0xFFFF


@dataclass(frozen=True, slots=True)
class Item:
    """What one entry of the registry becomes.

    Attributes:
        entry: The entry.

        words: What its identifiers are made of: lower case, ASCII, the first begins with a letter.

        texts: For a template, the texts around its fields: one more than there are fields.
            Empty for an entry with one key.
    """

    entry: Entry
    words: tuple[str, ...]
    texts: tuple[str, ...] = ()

    @classmethod
    def of(cls, entry: Entry, called: str | None = None) -> Item:
        """Take an entry apart.

        Args:
            entry: The entry.
            called: What its identifiers are made of, where that is not its own name.
        """
        if entry.key is not None or not entry.is_template:
            return cls(entry, words(entry.name if called is None else called))
        first, *texts = _around(entry)
        # A function is called after the words between its parameters, if there are any.
        own = " ".join((first, *texts))
        if not any(map(str.isalnum, own)):
            own = " ".join(entry.fields)
        before = f"{entry.namespace}:" if entry.namespace else ""
        found = words(own if called is None else called)
        return cls(entry, found, (before + first, *texts))

    @property
    def parts(self) -> int | tuple[int, int]:
        """The key of an entry that has one."""
        return self.entry.make().parts

    @property
    def name(self) -> str:
        """What it is called, for people: a fixed key is not made of a name in a namespace."""
        return visible(self.entry.full if self.entry.key is None else self.entry.name)

    @property
    def sql(self) -> str | None:
        """The SQL that makes its key of the name, $1 for a template; None for a fixed key."""
        if self.entry.key is not None:
            return None
        if self.texts:
            return "hashtext($1)" if self.entry.scheme == "hashtext" else "hashtextextended($1, 0)"
        return visible(self.entry.make().sql)

    @property
    def encoding(self) -> str | None:
        """What has to be known about its number: the server hashes the bytes of its encoding."""
        if self.texts or self.entry.key is not None or self.entry.full.isascii():
            return None
        return "This number is for databases in UTF8: the name is not ASCII."

    def about(self, *, name: bool = True, number: bool = False) -> list[str]:
        """What there is to say about it, a line each.

        Args:
            name: Also say what it is called.
            number: Also say which number its key is, because the code beside it does not.
        """
        lines = [*self.said, *([f"Name: {self.name}"] if name else ())]
        if self.sql is not None:
            more = ", where $1 is the name" if self.texts else f" = {self.parts}" if number else ""
            lines.append(f"Key: {self.sql}{more}")
        if self.encoding is not None:
            lines.append(self.encoding)
        return lines

    @property
    def said(self) -> list[str]:
        """What the registry says about it."""
        entry = self.entry
        lines = [prose(entry.description)] if entry.description.strip() else []
        return [*lines, f"Owner: {prose(entry.owner)}"] if entry.owner.strip() else lines


def _around(entry: Entry) -> Iterator[str]:
    rest = entry.name
    for field in entry.fields:
        text, _, rest = rest.partition(f"{{{field}}}")
        yield text
    yield rest


# -- identifiers -----------------------------------------------------------------------------------


def words(name: str) -> tuple[str, ...]:
    """Take a name apart into words of which any language can make an identifier.

    It depends on nothing but the name, so that one more entry renames no constant.
    """
    folded = "".join(c if c.isascii() else c.casefold() for c in name)  # ß is ss
    plain = unicodedata.normalize("NFKD", folded)
    plain = "".join(c for c in plain if not unicodedata.combining(c))
    # Languages disagree on letters beyond ASCII (Go exports none that has no case): their numbers.
    spelled = "".join(c if c.isascii() or not c.isalnum() else f" {_point(c)} " for c in plain)
    found = _ASCII_WORD.findall(_HUMP.sub(" ", spelled)) or list(map(_point, name))
    if found[0][0].isdigit():
        found.insert(0, "lock")
    return tuple(word.lower() for word in found)


def upper_snake(words: tuple[str, ...]) -> str:
    """`NIGHTLY_REPORT`."""
    return "_".join(words).upper()


def snake(words: tuple[str, ...]) -> str:
    """`nightly_report`."""
    return "_".join(words)


def pascal(words: tuple[str, ...]) -> str:
    """`NightlyReport`."""
    return "".join(map(str.capitalize, words))


def camel(words: tuple[str, ...]) -> str:
    """`nightlyReport`."""
    return words[0] + pascal(words[1:])


def parameters(
    item: Item, style: Callable[[tuple[str, ...]], str], reserved: Collection[str]
) -> tuple[str, ...]:
    """Name the parameters of a template's function: all different, and no word of the language."""
    found: list[str] = []
    for field in item.entry.fields:
        name = style(words(field))
        while name in reserved or name in found:
            name += "_"
        found.append(name)
    return tuple(found)


def _point(char: str) -> str:
    return f"u{ord(char):x}"


# -- text ------------------------------------------------------------------------------------------


def prose(text: str) -> str:
    """One line of text for people."""
    return visible(" ".join(text.split()))


def visible(text: str) -> str:
    """Text that is nothing but text: no control, no direction, no end of a line."""
    return "".join(c if c.isprintable() else f"<U+{ord(c):04X}>" for c in text)


def comment(lines: list[str], prefix: str, indent: str = "") -> list[str]:
    """Wrap lines, each behind a comment sign."""
    width = _WIDTH - len(prefix) - len(indent)
    return [f"{indent}{prefix}{line}" for text in lines for line in wrapped(text, width)]


def wrapped(text: str, width: int = _WIDTH) -> list[str]:
    """Break a line of prose where it has blanks."""
    return textwrap.wrap(
        text, width, break_long_words=False, break_on_hyphens=False, expand_tabs=False
    )


def escaped(
    text: str, special: Mapping[str, str], code: Callable[[str], str], *, ascii_only: bool = False
) -> str:
    """Write text as it stands between the quotes of a language.

    Args:
        text: The text.
        special: Characters with a meaning of their own, and what is written for them.
        code: Writes a character that cannot be seen, by its number.
        ascii_only: Write everything beyond ASCII by its number.
    """

    def one(char: str) -> str:
        if char in special:
            return special[char]
        if char.isprintable() and (char.isascii() or not ascii_only):
            return char
        return code(char)

    return "".join(map(one, text))


def four_or_eight(char: str) -> str:
    r"""A character by its number, as Go, Python and PostgreSQL have it: `\uXXXX`, `\UXXXXXXXX`."""
    number = ord(char)
    return f"\\u{number:04x}" if number <= _BMP else f"\\U{number:08x}"


def utf_16(char: str) -> str:
    r"""A character by the numbers of its halves, as Java has it: `\uXXXX`, twice if need be."""
    data = char.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{data[i]:02x}{data[i + 1]:02x}" for i in range(0, len(data), 2))


def woven(item: Item, inside: tuple[str, ...], text: Callable[[str], str]) -> Iterator[str]:
    """The texts of a template, written by `text`, and between them what stands for its fields."""
    for before, field in zip(item.texts, inside, strict=False):
        yield text(before)
        yield field
    yield text(item.texts[-1])
