"""Who writes into a place: the record of a run, and whether its process is alive."""

import os
import socket
import uuid
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ConfigDict, NonNegativeInt, ValidationError

from pipeline.config import Config


class Writer(Config):
    """A run that writes, or wrote, into a place.

    Attributes:
        run: Random name of one start of a run.
        host, pid: Where its main rank runs.
        kernel: The boot of the machine, and the space of its process ids; empty if unknown.
        started: When the process started, in the kernel's ticks.
        renewed: Time of the last renewal, by the writer's clock.
        renewals: Number of renewals.
        released: Whether the run has ended and let go of the place.
    """

    model_config = ConfigDict(extra="ignore")  # other versions may write more

    run: str
    host: str
    pid: NonNegativeInt
    kernel: str
    started: str
    renewed: datetime
    renewals: NonNegativeInt = 0
    released: bool = False

    @classmethod
    def here(cls) -> "Writer":
        """This process."""
        pid = os.getpid()
        return cls(
            run=uuid.uuid4().hex,
            host=socket.gethostname(),
            pid=pid,
            kernel=_kernel(),
            started=_started(pid),
            renewed=datetime.now(UTC),
        )

    @classmethod
    def parsed(cls, record: bytes) -> "Writer | None":
        """The writer in a record; None for a damaged record."""
        try:
            return cls.model_validate_json(record)
        except ValidationError:
            return None

    @property
    def is_here(self) -> bool:
        """Whether its process would be seen from here if it were alive."""
        return bool(self.kernel) and self.kernel == _kernel()

    @property
    def is_dead(self) -> bool:
        """Whether its process has surely ended. False for another machine or container, which cannot be seen."""
        return self.is_here and _started(self.pid) != self.started

    def __str__(self) -> str:
        return f"the run on {self.host} (process {self.pid})"


def _kernel() -> str:
    """The boot of this machine and the space of our process ids; empty where Linux does not tell."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _started(pid: int) -> str:
    """When this process started, in ticks since the boot; empty if there is none, or only its remains."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if state in "ZX" else fields[18]
