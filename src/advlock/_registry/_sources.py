"""Which names a Python source locks, as far as reading it can tell. Pure: nothing is imported.

What stands for a name is followed through constants, f-strings and functions that only return one.
What is not known that way is said to be unknown; it is never guessed.
"""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from advlock._key import Scheme

VERBS: Final = frozenset(
    ("hold", "attempt", "lock", "holders", "leader", "once", "semaphore", "rate_limit")
)
_SEVERAL: Final = "hold_all"
_IN_TRANSACTION: Final = ("xact_lock", "try_xact_lock")
# What makes a key of a name by itself, and how; a slot is not in the registry.
_KEYS: Final[dict[str, Scheme | None]] = {
    "of": "hashtextextended",
    "hashtext": "hashtext",
    "slot": None,
}
_PERCENT: Final = re.compile(r"%(?:\((\w+)\))?[-+ #0]*\d*(?:\.\d+)?[sdrifxX]")
_FORMAT: Final = re.compile(r"\{([A-Za-z_]\w*)?[^{}]*\}")
# Limits of what is followed, and of what one name may be: nobody's code comes near them, and
# `a1 = a0 + a0`, `a2 = a1 + a1`, … would not end in time.
_DEEPEST: Final = 20
_STEPS: Final = 1000
_MOST: Final = 100
_IGNORED: Final = "advlock: ignore"

Given: TypeAlias = str | int | tuple[int, int]
_Scopes: TypeAlias = "tuple[Scope, ...]"


class Use(NamedTuple):
    """One place where a lock is named.

    Attributes:
        file: The source.

        line: Where, from 1.

        name: The name, a template of it, or the number or pair; None if that cannot be known.

        said: How it stands there.

        made: The function that makes the key of it without asking any registry, as `xact_lock` and
            `Key.of` do; None where a client makes it, or that cannot be known.
    """

    file: str
    line: int
    name: Given | None
    said: str
    made: Scheme | None = None


class Scope:
    """What names mean in one module, class or function: the expressions they were set to, once."""

    def __init__(self, *, is_class: bool = False) -> None:
        self.is_class = is_class
        self.bound: dict[str, ast.AST | None] = {}  # None: to something that reading cannot tell
        self.inner: dict[ast.AST, Scope] = {}

    def bind(self, name: str, value: ast.AST | None) -> None:
        """Note what a name is set to; one that is set twice means nothing for certain."""
        self.bound[name] = None if name in self.bound else value


Import: TypeAlias = "Callable[[str, ast.ImportFrom], tuple[Scope, str] | None]"


def scope_of(tree: ast.Module) -> Scope:
    """Read what the names of a module, and of all in it, are set to."""
    scope = Scope()
    _bind_all(tree.body, scope)
    return scope


def uses(tree: ast.Module, scope: Scope, source: str, file: str, find: Import) -> Iterator[Use]:
    """Yield every place in a module where a lock is named.

    Args:
        tree: The module.
        scope: The same, as `scope_of` has read it.
        source: Its text.
        file: What to call it.
        find: Finds what a name was imported from, if that was read as well.
    """
    lines = source.split("\n")  # as the parser counts; splitlines() knows other ends of lines, too
    reader = _Reader(find)
    for call, scopes in _calls(tree, (scope,)):
        argument, verb = _argument(call)
        if argument is None:
            continue
        if any(_IGNORED in line for line in lines[call.lineno - 1 : argument.end_lineno]):
            continue
        said = ast.unparse(argument)
        reader.made = _KEYS["of"] if verb in _IN_TRANSACTION else None
        read = reader.each if verb == _SEVERAL else reader.names
        names = read(argument, scopes)
        made = reader.made if names is not None and len(names) == 1 else None
        for name in [None] if names is None else names:
            yield Use(file, argument.lineno, name, said, made)


def _bind_all(body: Iterable[ast.AST], scope: Scope) -> None:
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            _bind_function(node, scope)
        elif isinstance(node, ast.ClassDef):
            scope.bind(node.name, node)
            inner = scope.inner[node] = Scope(is_class=True)
            _bind_all(node.body, inner)
        elif (target := _plain_target(node)) is not None:
            assert isinstance(node, ast.Assign | ast.AnnAssign)
            scope.bind(target, node.value)
            _bind_all([node.value] if node.value else [], scope)
        else:
            if isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    scope.bind(alias.asname or alias.name, node)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                scope.bound[node.id] = None  # a loop, a walrus, a with: whatever comes by
            _bind_all(ast.iter_child_nodes(node), scope)


def _bind_function(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda, scope: Scope) -> None:
    if not isinstance(node, ast.Lambda):
        scope.bind(node.name, node)
    inner = scope.inner[node] = Scope()
    for arg in ast.walk(node.args):
        if isinstance(arg, ast.arg):
            inner.bind(arg.arg, None)
    _bind_all(node.body if isinstance(node.body, list) else [node.body], inner)


def _plain_target(node: ast.AST) -> str | None:
    """The one name that `NAME = …` sets."""
    if isinstance(node, ast.Assign) and len(node.targets) == 1:
        target = node.targets[0]
    elif isinstance(node, ast.AnnAssign):
        target = node.target
    else:
        return None
    return target.id if isinstance(target, ast.Name) else None


def _calls(node: ast.AST, scopes: _Scopes) -> Iterator[tuple[ast.Call, _Scopes]]:
    for child in ast.iter_child_nodes(node):
        inner = scopes[-1].inner.get(child)
        if isinstance(child, ast.Call):
            yield child, scopes
        yield from _calls(child, (*scopes, inner) if inner else scopes)


def _argument(call: ast.Call) -> tuple[ast.expr | None, str]:
    """Return what a call locks, if it locks anything, and the verb."""
    function = call.func
    verb = function.attr if isinstance(function, ast.Attribute) else ""
    verb = function.id if isinstance(function, ast.Name) else verb
    if verb in _IN_TRANSACTION:
        at, keyword = 1, "name"
    elif isinstance(function, ast.Attribute) and (verb in VERBS or verb == _SEVERAL):
        at, keyword = 0, "names" if verb == _SEVERAL else "name"
    else:
        return None, verb
    found = [k.value for k in call.keywords if k.arg == keyword] or call.args[at : at + 1]
    return (found[0] if found else None), verb


class _Reader:
    """Follows expressions to the names that they stand for."""

    made: Scheme | None = None  # what made a key of the names that were read last; see Use

    def __init__(self, find: Import) -> None:
        self._find = find
        self._steps = 0

    def each(self, node: ast.AST, scopes: _Scopes, depth: int = 0) -> list[Given] | None:
        """The names of a list of them."""
        if isinstance(node, ast.Name | ast.Attribute):
            found = self._follow(node, scopes) if depth < _DEEPEST else None
            return None if found is None else self.each(*found, depth + 1)
        if isinstance(node, ast.List | ast.Tuple | ast.Set):
            every = [self.names(one, scopes) for one in node.elts]
        elif isinstance(node, ast.ListComp | ast.GeneratorExp | ast.SetComp):
            every = [self.names(node.elt, scopes)]
        else:
            return None
        return None if None in every else [name for some in every for name in some or ()]

    def names(self, node: ast.AST, scopes: _Scopes) -> list[Given] | None:
        """The names that an expression may be; None if that cannot be known."""
        fixed = self._fixed(node, scopes)
        if fixed is not None:
            return [fixed]
        self._steps = 0
        texts = self._texts(node, scopes, 0)
        if texts is None or len(texts) > _MOST:
            return None
        # Nothing but fields: that may be any name.
        known = [text for text in texts if _FORMAT.sub("", text)]
        return [*dict.fromkeys(known)] if len(known) == len(texts) else None

    def _fixed(
        self, node: ast.AST, scopes: _Scopes, depth: int = 0
    ) -> int | tuple[int, int] | None:
        """The number or the pair that an expression is."""
        if isinstance(node, ast.Name | ast.Attribute):
            found = self._follow(node, scopes) if depth < _DEEPEST else None
            return None if found is None else self._fixed(*found, depth + 1)
        if isinstance(node, ast.Call):
            of = _key_of(node) == "of" and depth < _DEEPEST
            return self._fixed(node.args[0], scopes, depth + 1) if of else None
        if isinstance(node, ast.Tuple):
            halves = [_number(half) for half in node.elts]
            a, b = halves if len(halves) == 2 else (None, None)  # noqa: PLR2004 - a pair
            return None if a is None or b is None else (a, b)
        return _number(node)

    def _texts(self, node: ast.AST, scopes: _Scopes, depth: int) -> list[str] | None:  # noqa: PLR0911 - a line for each kind of expression
        self._steps += 1
        if depth > _DEEPEST or self._steps > _STEPS:
            return None
        deeper = depth + 1
        if isinstance(node, ast.Constant):
            return [node.value] if isinstance(node.value, str) else None
        if isinstance(node, ast.JoinedStr):
            return self._joined(node.values, scopes, deeper)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            return self._joined([node.left, node.right], scopes, deeper)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mod):
            return self._filled(node.left, _PERCENT, scopes, deeper)
        if isinstance(node, ast.IfExp):
            both = [self._texts(one, scopes, deeper) for one in (node.body, node.orelse)]
            return None if None in both else [text for one in both for text in one or ()]
        if isinstance(node, ast.Call):
            return self._called(node, scopes, deeper)
        if isinstance(node, ast.Attribute) and node.attr == "value":  # of an Enum
            return self._texts(node.value, scopes, deeper)
        if isinstance(node, ast.Name | ast.Attribute):
            found = self._follow(node, scopes)
            return None if found is None else self._texts(*found, deeper)
        return None

    def _joined(self, parts: Iterable[ast.AST], scopes: _Scopes, depth: int) -> list[str]:
        whole = [""]
        for part in parts:
            value = part.value if isinstance(part, ast.FormattedValue) else part
            texts = self._texts(value, scopes, depth)
            known = texts is not None and len(whole) * len(texts) <= _MOST
            if not known or (isinstance(part, ast.FormattedValue) and part.format_spec):
                texts = [f"{{{_word(value)}}}"]
            whole = [begin + end for begin in whole for end in texts or ()]
        return whole

    def _filled(
        self, node: ast.AST, fields: re.Pattern[str], scopes: _Scopes, depth: int
    ) -> list[str] | None:
        texts = self._texts(node, scopes, depth)
        if texts is None:
            return None
        return [fields.sub(lambda match: f"{{{match[1] or 'value'}}}", text) for text in texts]

    def _called(self, call: ast.Call, scopes: _Scopes, depth: int) -> list[str] | None:
        function = call.func
        if makes := _key_of(call):
            # Other arguments, as a namespace or a scheme, are not read.
            plain = not call.keywords and len(call.args) == 1
            self.made = _KEYS[makes] if plain else None
            return self._texts(call.args[0], scopes, depth)
        if isinstance(function, ast.Attribute) and function.attr == "format":
            return self._filled(function.value, _FORMAT, scopes, depth)
        if isinstance(function, ast.Name | ast.Attribute):
            found = self._follow(function, scopes)
            if found is not None and isinstance(found[0], ast.FunctionDef):
                return self._returned(found[0], found[1], depth)
        return None

    def _returned(self, node: ast.FunctionDef, outer: _Scopes, depth: int) -> list[str] | None:
        """What a function returns that returns in one place, its last line."""
        last, inner = node.body[-1], outer[-1].inner.get(node)
        returns = sum(isinstance(one, ast.Return) for one in ast.walk(node))
        if inner is None or returns > 1 or not isinstance(last, ast.Return) or not last.value:
            return None
        return self._texts(last.value, (*outer, inner), depth)

    def _follow(
        self, node: ast.Name | ast.Attribute, scopes: _Scopes
    ) -> tuple[ast.AST, _Scopes] | None:
        """What a name was set to, and where that is to be understood."""
        if isinstance(node, ast.Attribute):
            return self._member(node, scopes)
        for depth in range(len(scopes), 0, -1):
            scope = scopes[depth - 1]
            if node.id not in scope.bound or (scope.is_class and depth < len(scopes)):
                continue
            value = scope.bound[node.id]
            if isinstance(value, ast.ImportFrom):
                return self._imported(node.id, value)
            return None if value is None else (value, scopes[:depth])
        return None

    def _imported(self, name: str, node: ast.ImportFrom) -> tuple[ast.AST, _Scopes] | None:
        found = self._find(name, node)
        if found is None:
            return None
        scope, original = found
        value = scope.bound.get(original)
        return None if value is None or isinstance(value, ast.ImportFrom) else (value, (scope,))

    def _member(self, node: ast.Attribute, scopes: _Scopes) -> tuple[ast.AST, _Scopes] | None:
        """What `Names.DEPLOY` or `self.NAME` was set to, in the body of the class."""
        if isinstance(node.value, ast.Name) and node.value.id in {"self", "cls"}:
            around = [depth for depth, scope in enumerate(scopes) if scope.is_class]
            if not around:
                return None
            outer, scope = scopes[: around[-1]], scopes[around[-1]]
        elif isinstance(node.value, ast.Name):
            found = self._follow(node.value, scopes)
            if found is None or not isinstance(found[0], ast.ClassDef):
                return None
            outer, scope = found[1], found[1][-1].inner[found[0]]
        else:
            return None
        value = scope.bound.get(node.attr)
        return None if value is None else (value, (*outer, scope))


def _key_of(call: ast.Call) -> str | None:
    """Which of `_KEYS` a call is; None for any other call."""
    function = call.func
    if isinstance(function, ast.Attribute) and _word(function.value) == "Key" and call.args:
        return function.attr if function.attr in _KEYS else None
    return None


def _number(node: ast.AST) -> int | None:
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        number = _number(node.operand)
        return None if number is None else -number
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return node.value
    return None


def _word(node: ast.AST) -> str:
    """A name for the field of a template that stands for this expression."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return node.attr
    return "value"
