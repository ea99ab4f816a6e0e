"""One entry of the registry: a name, or a template of names, and what is said about it. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from advlock._key import Key
from advlock._registry import _template

if TYPE_CHECKING:
    from advlock._key import Scheme


@dataclass(frozen=True, slots=True)
class Entry:
    """A lock that the registry names.

    Attributes:
        name: As it stands in the file; with `{word}` in it, a template of many names.

        description: What the lock protects; empty if nobody wrote it.

        owner: Whom to ask; empty if nobody wrote it.

        scheme: The SQL function that makes keys of the name. It means nothing where `key` is set.

        key: The fixed key; None for one that is made of the name.

        namespace: That of the registry: the name that is hashed is `namespace:name`.

        line: Where it stands in its file, from 1; None where that was not asked for.
    """

    name: str
    description: str = ""
    owner: str = ""
    scheme: Scheme = "hashtextextended"
    key: Key | None = None
    namespace: str = ""
    line: int | None = field(default=None, compare=False)

    @property
    def is_template(self) -> bool:
        """Whether it stands for many names."""
        return _template.is_template(self.name)

    @property
    def fields(self) -> tuple[str, ...]:
        """The names of a template's fields, in their order."""
        return _template.fields(self.name)

    @property
    def full(self) -> str:
        """The name with the namespace before it."""
        return f"{self.namespace}:{self.name}" if self.namespace else self.name

    def matches(self, full: str) -> bool:
        """Tell whether it stands for a name, given with its namespace."""
        if not self.is_template:
            return self.full == full
        before = self.full.removesuffix(self.name)  # braces in a namespace are no fields
        return full.startswith(before) and _template.matches(self.name, full.removeprefix(before))

    def make(self, full: str | None = None, *, encoding: str = "utf-8") -> Key:
        """Make the key of a name that it stands for.

        Args:
            full: The name, with its namespace; for a plain entry that is its own.
            encoding: The Python codec of the server's encoding.

        Raises:
            ConfigError: that encoding cannot express the name.
        """
        if self.key is not None:
            return self.key
        name = self.full if full is None else full
        return Key.of(name, encoding=encoding, scheme=self.scheme)
