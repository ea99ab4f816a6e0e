"""What a data directory says about its server: the file postmaster.pid, and whether it is true."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

# The lines of postmaster.pid (PostgreSQL's src/include/utils/pidfile.h), counted from 0.
_PID, _PORT, _SHARED_MEMORY, _STATUS = 0, 3, 6, 7
_PROCESSES = Path("/proc")
_SEGMENTS = Path("/proc/sysvipc/shm")
_SEGMENT_ID, _SEGMENT_ATTACHED = 1, 6


@dataclass(frozen=True, slots=True)
class Postmaster:
    """A server as its pid file describes it; the file outlives a killed server.

    Attributes:
        pid: The process id, at the time of writing.

        port: The port of its sockets; 0 while it starts.

        status: "starting", "ready", "stopping" or "standby"; empty early in the start.

        segment: The id of its shared memory segment; -1 while it starts.
    """

    pid: int
    port: int
    status: str
    segment: int

    @classmethod
    def read(cls, data: Path) -> Postmaster | None:
        """The server that `data` names; None when it names none (a clean stop removes the file)."""
        try:
            text = (data / "postmaster.pid").read_text(encoding="utf-8", errors="replace")
        except (FileNotFoundError, NotADirectoryError):
            return None
        lines = [line.strip() for line in text.splitlines()] + [""] * (_STATUS + 1)
        if not lines[_PID].isdigit():
            return None
        port = int(lines[_PORT]) if lines[_PORT].isdigit() else 0
        segment = lines[_SHARED_MEMORY].rpartition(" ")[2]
        return cls(int(lines[_PID]), port, lines[_STATUS], int(segment) if segment else -1)

    def is_alive(self, data: Path) -> bool:
        """Whether the process is there and is a server over `data`.

        Its existence alone proves nothing: in a container whose first process reaps no children, a
        killed server stays as a zombie, and after a reboot the number belongs to somebody else.
        PostgreSQL itself, like pg_ctl, is fooled by both.
        """
        if not (_PROCESSES / "self").exists():
            return self.pid_exists()
        try:
            arguments = (_PROCESSES / str(self.pid) / "cmdline").read_bytes().split(b"\0")
        except OSError:
            return False
        return os.fsencode(data) in arguments

    def pid_exists(self) -> bool:
        """Whether any process has the number, a zombie included."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return True

    def memory_in_use(self) -> bool | None:
        """Whether processes of this server are left over; None where the system does not tell."""
        try:
            rows = _SEGMENTS.read_text(encoding="ascii").splitlines()[1:]
        except OSError:
            return None
        return any(
            int(fields[_SEGMENT_ID]) == self.segment and int(fields[_SEGMENT_ATTACHED]) > 0
            for fields in (row.split() for row in rows)
        )
