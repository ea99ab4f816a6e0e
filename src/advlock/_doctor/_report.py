"""What the doctor says: findings, facts, and the report that holds them. Pure.

A finding has a code that never changes its meaning: scripts and alerts may rely on it. A fact is
what was seen, in words for people; only its key is stable.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal, TypeAlias

Severity: TypeAlias = Literal["error", "warning"]

# Every code there is, each with its severity; docs/doctor.md explains them in this order.
CODES: Final[dict[str, Severity]] = {
    "locks-missing": "error",
    "locks-no-answer": "error",
    "locks-exclude-nobody": "error",
    "locks-invisible": "error",
    "lock-not-released": "error",
    "lock-outlives-connection": "error",
    "waiter-not-granted": "error",
    "read-replica": "error",
    "pooler-statement": "error",
    "server-too-old": "error",
    "override-refused": "error",
    "fence-unsound": "error",
    "fence-unusable": "error",
    "token-functions-denied": "error",
    "lock-table-full": "error",
    "connections-exhausted": "error",
    "key-collision": "error",
    "pooler-leaks": "warning",
    "fence-missing": "warning",
    "identity-hidden": "warning",
    "plpgsql-missing": "warning",
    "keepalives-refused": "warning",
    "user-timeout-refused": "warning",
    "lock-table-filling": "warning",
    "connections-scarce": "warning",
    "exclusion-untested": "warning",
    "clock-offset": "warning",
    "leaked-lock": "warning",
    "long-waiter": "warning",
    "stalled-holder": "warning",
}

_ORDER: Final = list(CODES)
_EXIT_CODES: Final[dict[Severity | None, int]] = {None: 0, "warning": 1, "error": 2}


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong, or will cost you something.

    Attributes:
        code: What kind of thing, such as `read-replica`; stable.

        severity: `error` where a promise does not hold, `warning` where it costs or endangers.

        summary: What is wrong, in one line.

        evidence: What was seen: numbers, answers, process ids.

        remedy: The next thing to type: SQL, a setting, an address.
    """

    __module__ = "advlock"

    code: str
    severity: Literal["error", "warning"]
    summary: str
    evidence: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Report:
    """What `advlock.doctor()` found out.

    Attributes:
        database: Which database was examined, and who named it; without the password.

        server: What runs there, such as `PostgreSQL 18.6`.

        findings: What is wrong: errors first. Empty on a healthy server.

        facts: What was seen, by topic; "could not be checked: …" where something stood in the way.

        seconds: How long it took.
    """

    __module__ = "advlock"

    database: str
    server: str
    findings: tuple[Finding, ...] = ()
    facts: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def worst(self) -> Literal["error", "warning"] | None:
        """The severity of the worst finding; None where there is none."""
        severities = {finding.severity for finding in self.findings}
        return "error" if "error" in severities else "warning" if severities else None

    @property
    def exit_code(self) -> int:
        """What `advlock doctor` exits with: 0 clean, 1 for warnings, 2 for errors."""
        return _EXIT_CODES[self.worst]

    def as_dict(self) -> dict[str, Any]:
        """Return the report as `advlock doctor --json` prints it."""
        return {
            "database": self.database,
            "server": self.server,
            "worst": self.worst,
            "exit_code": self.exit_code,
            "findings": [asdict(finding) for finding in self.findings],
            "facts": dict(self.facts),
            "seconds": round(self.seconds, 3),
        }


def find(code: str, summary: str, *, evidence: str, remedy: str) -> Finding:
    """Make a finding; its severity is the code's."""
    return Finding(code, CODES[code], summary, evidence, remedy)


def ordered(findings: list[Finding]) -> tuple[Finding, ...]:
    """Put the gravest first; what was found first stays first among its like."""
    return tuple(sorted(findings, key=lambda finding: _ORDER.index(finding.code)))
