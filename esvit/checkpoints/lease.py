"""One writer per place: the lease that a run holds on a folder or prefix while it writes there.

    writers/00000001.json    the first run that wrote here
    writers/00000002.json    the run that writes here now; renewed every few seconds

The number is the epoch of the lease. A run takes a place by creating the next number. Of several runs only one can
(`Store.put_new`), and no number is ever given twice. Whoever has a lower number has lost the place, and finds that out
before it writes. The clocks of two machines are never compared: a lease is stale once it was seen without a change for
`stale_s` seconds.
"""

import contextlib
import re
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from esvit.checkpoints.writer import Writer
from pipeline import waiting
from pipeline.errors import UserError
from pipeline.store import MissingObjectError, Store, StoreError

FOLDER = "writers/"
_NAME = re.compile(FOLDER + r"(\d{8})\.json")
_POLL_S = 1.0


class OutputHeldError(UserError):
    """Another run writes into this place."""


class OutputLostError(UserError):
    """Another run has taken this place over."""


class Lease:
    """The lease on one place. It is renewed by a thread of its own from `take` to `release`."""

    def __init__(self, store: Store, renew_s: float = 5.0, stale_s: float = 30.0) -> None:
        self._store, self._renew_s, self._stale_s = store, renew_s, stale_s
        self._epoch, self._writer = 0, Writer.here()
        self._silent: bytes | None = None  # the record of a holder that gave no sign of life
        self._renewed_s = 0.0
        self._lost: OutputLostError | None = None
        self._lock = threading.Lock()  # one request on our own record at a time
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew_often, name="renew-lease", daemon=True)

    def take(self, say: Callable[[str], None]) -> None:
        """Take the place: at once if nobody has it, after a wait of `stale_s` if its holder gives no sign of life.

        Raises:
            OutputHeldError: another run holds it, and is alive.
            StoreError: the place cannot be read or written.
        """
        while True:
            self._epoch = self.wait_until_free(say) + 1
            # A conflict may be our own first try, whose answer was lost. A store that overwrites in spite of the
            # condition has the record of the last one: so what counts is what can be read.
            self._store.put_new(_name(self._epoch), self._record())
            if self._is_ours(self._epoch):
                break
        self._renewed_s = time.monotonic()
        self._thread.start()

    def wait_until_free(self, say: Callable[[str], None]) -> int:
        """The epoch of the last holder, 0 in a new place, once it is free. Raises as `take`; writes nothing."""
        if epoch := self._newest():
            self._refuse_if_alive(epoch, say)
        return epoch

    def check(self) -> None:
        """Ask the place whether this run still holds it. Call this before each write.

        Raises:
            OutputLostError: another run has taken it.
            StoreError: the place cannot be read.
        """
        self._look()
        if self._is_late:  # this process, or the store, stood still for a while: it must be seen alive before it writes
            self._renew()
            self._look()

    def check_soon(self) -> None:
        """As `check`, but for a remote place without a request: what the last renewal has found."""
        if self._store.local_path("") is None:
            self._raise_if_lost()
        else:
            self.check()

    def release(self) -> None:
        """Let go of the place, so that the next run need not wait. A place that is lost stays as it is."""
        self._ended.set()
        if not self._thread.is_alive() or self._is_late:
            return  # it was never taken, or is lost; or the store does not answer, and nobody waits for that here
        self._thread.join(self._renew_s)
        with contextlib.suppress(StoreError, OutputLostError):  # then the next run waits until the lease is stale
            self._look()
            self._renew(released=True)

    @property
    def _is_late(self) -> bool:
        return time.monotonic() - self._renewed_s > 2 * self._renew_s

    def _newest(self) -> int:
        """The highest epoch; 0 in a new place. Goes on after the listing's last, which may be behind."""
        matches = map(_NAME.fullmatch, self._store.list(FOLDER))
        epoch = max((int(match[1]) for match in matches if match), default=0)
        while self._store.exists(_name(epoch + 1)):
            epoch += 1
        return epoch

    def _refuse_if_alive(self, epoch: int, say: Callable[[str], None]) -> None:
        """Return once the place is free."""
        record = self._store.read(_name(epoch))
        writer = Writer.parsed(record)
        if record == self._silent or (writer and (writer.released or writer.is_dead)):
            return
        silent_s = (datetime.now(UTC) - writer.renewed).total_seconds() if writer and writer.is_here else None
        if silent_s is None or silent_s > 2 * self._renew_s:
            say(f"{writer or 'a run'} has {self._store.url}; watching it for at most {self._stale_s:.0f} s")
            with waiting.phase(f"sign of life of {writer or 'the run'} that has {self._store.url}"):
                changed = self._watch(epoch, record)
            if changed is None:
                say("it gives no sign of life: this run takes over")
                self._silent = record
                return
            writer, silent_s = Writer.parsed(changed), 0.0
            if writer and writer.released:
                return
        raise OutputHeldError(
            f"{self._store.url} is in use by {writer or 'another run'}, whose last sign of life was "
            f"{max(silent_s, 0):.0f} s ago; wait until it ends, or end it, or give this run another output and "
            "checkpoint.url"
        )

    def _watch(self, epoch: int, record: bytes) -> bytes | None:
        """The record once it has changed; None if it stays the same for `stale_s`."""
        since_s = time.monotonic()
        while time.monotonic() - since_s < self._stale_s:
            time.sleep(min(_POLL_S, self._renew_s))
            asked_s = time.monotonic()
            if (now := self._store.read(_name(epoch))) != record:
                return now
            if time.monotonic() - asked_s > self._renew_s:
                since_s = time.monotonic()  # the store did not answer: then the holder could not renew either
        return None

    def _renew_often(self) -> None:
        while not self._ended.wait(self._renew_s):
            try:
                self._look()
                self._renew()
            except OutputLostError:
                return
            except StoreError:
                continue  # tried again soon; a lease that has become stale meanwhile is still ours until it is taken

    def _renew(self, released: bool = False) -> None:
        with self._lock:
            self._raise_if_lost()
            self._writer = self._writer.replace(
                renewed=datetime.now(UTC), renewals=self._writer.renewals + 1, released=released
            )
            self._store.put(_name(self._epoch), self._record())
            self._renewed_s = time.monotonic()

    def _look(self) -> None:
        """Raise `OutputLostError` if our record is gone, is another's, or has a successor."""
        with self._lock:
            self._raise_if_lost()
            newest = self._newest()
            if newest != self._epoch or not self._is_ours(newest):
                writer = Writer.parsed(self._store.read(_name(newest))) if newest else None
                self._lost = OutputLostError(
                    f"{writer or 'another run'} has taken over {self._store.url}; this run ends and writes nothing more"
                )
                raise self._lost

    def _raise_if_lost(self) -> None:
        if self._lost:
            raise self._lost

    def _is_ours(self, epoch: int) -> bool:
        """Whether the record is ours. A wrong byte in one answer must end no run: only a second answer is believed."""

        def is_ours() -> bool:
            try:
                writer = Writer.parsed(self._store.read(_name(epoch)))
            except MissingObjectError:
                return False
            return writer is not None and writer.run == self._writer.run

        return is_ours() or is_ours()

    def _record(self) -> bytes:
        return self._writer.model_dump_json(indent=1).encode()


class RunLeases:
    """The leases on the two places of a run: its checkpoints, and its output folder.

    A context manager: leaving it releases both. Before `take`, and on the ranks that never take them, checks pass.
    """

    def __init__(self, checkpoints: Store, output: Store) -> None:
        self._checkpoints = Lease(checkpoints)
        self._output = self._checkpoints if _place(output) == _place(checkpoints) else Lease(output)
        self._taken = False

    def take(self, say: Callable[[str], None]) -> None:
        """Take both, or write nothing. Raises as `Lease.take`."""
        both = tuple(dict.fromkeys((self._checkpoints, self._output)))  # first the one whose store may refuse writes
        for lease in both:
            lease.wait_until_free(say)
        for lease in both:
            lease.take(say)
        self._taken = True

    def check_checkpoints(self) -> None:
        """Raise `OutputLostError` if another run may write checkpoints now."""
        if self._taken:
            self._checkpoints.check()

    def check_log(self) -> None:
        """Raise `OutputLostError` if another run may write the log now, or is known to write checkpoints."""
        if self._taken:
            self._output.check()
            self._checkpoints.check_soon()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._checkpoints.release()
        self._output.release()


def _place(store: Store) -> str | Path:
    folder = store.local_path("")
    return folder.resolve() if folder else store.url


def _name(epoch: int) -> str:
    return f"{FOLDER}{epoch:08d}.json"
