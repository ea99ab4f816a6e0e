"""An empty database and copies of the examples, as tests/examples has them."""

from __future__ import annotations

from examples.conftest import Example, example, url

__all__ = ["Example", "example", "url"]
