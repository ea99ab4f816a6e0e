"""Job stores that several schedulers use at once."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from apscheduler.jobstores.base import JobLookupError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from apscheduler.jobstores.base import BaseJobStore


class Shares:
    """What `shared` puts before a store's own methods."""

    _due: frozenset[str] = frozenset()

    def get_due_jobs(self, now: datetime) -> Any:
        """Remember them: whoever asks is about to update or remove each."""
        jobs = super().get_due_jobs(now)  # type: ignore[misc]
        self._due = frozenset(job.id for job in jobs)
        return jobs

    def get_next_run_time(self) -> Any:
        """It is what a scheduler asks when it is through with them."""
        self._due = frozenset()
        return super().get_next_run_time()  # type: ignore[misc]

    def update_job(self, job: Any) -> None:
        """Update it, unless another scheduler has removed it since it was due."""
        with self._gone_meanwhile(job.id):
            super().update_job(job)  # type: ignore[misc]

    def remove_job(self, job_id: str) -> None:
        """Remove it, unless another scheduler did since it was due."""
        with self._gone_meanwhile(job_id):
            super().remove_job(job_id)  # type: ignore[misc]

    @contextlib.contextmanager
    def _gone_meanwhile(self, job_id: str) -> Iterator[None]:
        try:
            yield
        except JobLookupError:
            if job_id not in self._due:
                raise  # a call of somebody's own, who wants to know


def shared(base: type[BaseJobStore]) -> type[BaseJobStore]:
    """Make a job store class that survives other schedulers: `shared(SQLAlchemyJobStore)(url=…)`.

    When a job has had its last run, each scheduler removes it. All but the first find that it is
    not there, and with APScheduler's own stores that error ends the scheduler's thread: it never
    runs anything again, and logs nothing. With this one they go on.

    Args:
        base: A class of a job store in a database.
    """
    about = {
        "__doc__": f"`{base.__name__}`, for several schedulers.",
        "__module__": base.__module__,
    }
    return type(f"Shared{base.__name__}", (Shares, base), about)
