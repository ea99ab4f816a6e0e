"""Sphinx reads this: Markdown by MyST, looks by Furo, the library reference from docstrings."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "src"))

project = "advlock"
author = "The advlock authors"
copyright = author  # noqa: A001 - Sphinx's name for it

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["cli-help"]
html_theme = "furo"
html_title = "advlock"

myst_heading_anchors = 3

default_role = "code"  # `x` in a docstring is code, as in Markdown
napoleon_numpy_docstring = False
napoleon_use_ivar = True
autodoc_class_signature = "mixed"
autodoc_typehints = "signature"
# Spelled out, a lock's name is a union of four types, in every signature.
autodoc_type_aliases = {"Name": "Name", "Seconds": "Seconds", "Scheme": "Scheme"}
# Nitpicky, but nothing on the network: what is not ours is not looked up.
nitpick_ignore_regex = [
    ("py:.*", r"(asyncio|collections|datetime|psycopg|threading|types|typing)\b.*"),
    ("py:.*", r"(Connection|AsyncConnection|Name|Liveness|Scheme|Seconds|Self)"),
    ("py:.*", r"(F|Overlap|Missed|OnCrash|Kind)"),
    ("py:.*", r"(Table|Columns|Params|Row)"),
    ("py:.*", r"(datetime|timedelta|Awaitable|Callable|Iterable|Path|Sequence)"),
    ("py:.*", r"Abstract(Async)?ContextManager"),
    # What is SQLAlchemy's and asyncpg's.
    ("py:.*", r"((Async)?Engine|Sync|Async|Select|AnyConnection|Record)"),
    # What a registry is made of; nobody makes one.
    ("py:.*", r"(advlock\._registry\._(entry|registry)\.)?(Entry|Collision)"),
    # What a `with` statement enters; nobody names them.
    ("py:.*", r"(advlock\._a?held\.)?(Async)?(Hold|HoldAll|Attempt|Once)"),
    ("py:.*", r"(advlock\._semaphore\._a?semaphore\.)?(Async)?Slot(Hold|Attempt)"),
]
