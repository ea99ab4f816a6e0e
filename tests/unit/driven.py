"""Plans driven by hand."""

from __future__ import annotations

from typing import Any


def drive(plan: Any, *answers: Any) -> tuple[list[Any], Any]:
    """Run `plan` with `answers`; return what it asked and its verdict (None while it asks on)."""
    asked = []
    try:
        step = next(plan)
        for answer in answers:
            asked.append(step)
            raises = isinstance(answer, Exception)
            step = plan.throw(answer) if raises else plan.send(answer)
        asked.append(step)
    except StopIteration as stop:
        return asked, stop.value
    return asked, None
