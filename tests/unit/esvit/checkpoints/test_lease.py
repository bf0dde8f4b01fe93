"""One writer per place: who may take it, who finds out that it is lost, and what faults of a store do not change."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from esvit.checkpoints import writer
from esvit.checkpoints.lease import Lease, OutputHeldError, OutputLostError
from esvit.checkpoints.writer import Writer
from pipeline.store import Store, StoreError

RENEW_S, STALE_S = 0.04, 0.3
NewLease = Callable[..., Lease]


@pytest.fixture
def new_lease(tmp_path: Path) -> Iterator[NewLease]:
    """Makes leases with short times on one place, by default a new folder; released in the end."""
    made: list[Lease] = []

    def new(store: Store | None = None, renew_s: float = RENEW_S, stale_s: float = STALE_S) -> Lease:
        made.append(Lease(store or Store(tmp_path / "run"), renew_s, stale_s))
        return made[-1]

    yield new
    for lease in made:
        lease.release()


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From the call on, this process is on another machine."""
    return lambda: monkeypatch.setattr(writer, "_kernel", lambda: "another machine")


def say(_: str) -> None:
    """Says nothing."""


def stop_renewing(lease: Lease) -> None:
    """What SIGSTOP does to its process."""
    lease._ended.set()
    lease._thread.join()


def epochs(folder: Path) -> list[str]:
    return sorted(path.stem for path in (folder / "writers").iterdir())


def test_a_second_run_is_refused_at_once_while_the_first_lives(new_lease: NewLease, tmp_path: Path) -> None:
    new_lease().take(say)
    began_s = time.monotonic()
    with pytest.raises(
        OutputHeldError, match=r"/run is in use by the run on .* \(process \d+\), whose last sign of life"
    ):
        new_lease(stale_s=60).take(say)
    assert time.monotonic() - began_s < 1
    assert epochs(tmp_path / "run") == ["00000001"]


def test_a_second_run_on_another_machine_sees_the_first_renew(
    new_lease: NewLease, elsewhere: Callable[[], None], tmp_path: Path
) -> None:
    new_lease().take(say)
    elsewhere()
    said: list[str] = []
    with pytest.raises(OutputHeldError, match="last sign of life was 0 s ago; wait until it ends, or end it, or give"):
        new_lease(stale_s=60).take(said.append)
    assert len(said) == 1 and "watching it for at most 60 s" in said[0]
    assert epochs(tmp_path / "run") == ["00000001"]


def test_a_silent_run_loses_its_place_and_finds_out(
    new_lease: NewLease, elsewhere: Callable[[], None], tmp_path: Path
) -> None:
    first = new_lease()
    first.take(say)
    stop_renewing(first)
    elsewhere()
    second, said = new_lease(), list[str]()
    began_s = time.monotonic()
    second.wait_until_free(said.append)
    assert time.monotonic() - began_s > STALE_S and "takes over" in said[-1]
    assert epochs(tmp_path / "run") == ["00000001"]
    second.take(said.append)
    assert len(said) == 2  # it is not watched again
    assert epochs(tmp_path / "run") == ["00000001", "00000002"]
    record = (tmp_path / "run/writers/00000001.json").read_bytes()
    for ask in (first.check, first.check_soon, first._renew, first.check):
        with pytest.raises(OutputLostError, match=r"has taken over .*/run; this run ends and writes nothing more"):
            ask()
    first.release()
    assert (tmp_path / "run/writers/00000001.json").read_bytes() == record
    second.check()


def test_a_stopped_run_on_this_machine_is_not_waited_for_for_ever(new_lease: NewLease) -> None:
    first, second = new_lease(), new_lease()
    first.take(say)
    stop_renewing(first)
    time.sleep(2 * RENEW_S)
    second.take(say)
    with pytest.raises(OutputLostError):
        first.check()


def test_the_renewing_thread_finds_out_by_itself(new_lease: NewLease, tmp_path: Path) -> None:
    first = new_lease()
    first.take(say)
    (tmp_path / "run/writers/00000002.json").write_text(Writer.here().model_dump_json())
    first._thread.join(5)
    assert not first._thread.is_alive()
    with pytest.raises(OutputLostError, match="the run on"):
        first._raise_if_lost()


def test_a_killed_run_on_this_machine_leaves_its_place_at_once(new_lease: NewLease, tmp_path: Path) -> None:
    take = f"Lease(Store({str(tmp_path / 'run')!r})).take(print)"
    code = f"import os; from esvit.checkpoints.lease import *; {take}; os.kill(os.getpid(), 9)"
    killed = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[4], timeout=60)
    assert killed.returncode == -9
    began_s = time.monotonic()
    new_lease(stale_s=60).take(say)
    assert time.monotonic() - began_s < 1


@pytest.mark.parametrize("change", [{"started": "1"}, {"pid": 1 << 22}])
def test_another_process_of_the_same_number_is_another_one(
    new_lease: NewLease, tmp_path: Path, change: dict[str, Any]
) -> None:
    Store(tmp_path / "run").put("writers/00000007.json", Writer.here().replace(**change).model_dump_json().encode())
    new_lease(stale_s=60).take(say)
    assert epochs(tmp_path / "run") == ["00000007", "00000008"]


def test_a_run_that_ends_lets_go(new_lease: NewLease, elsewhere: Callable[[], None], tmp_path: Path) -> None:
    first = new_lease()
    first.take(say)
    first.release()
    elsewhere()
    said: list[str] = []
    new_lease().take(said.append)
    assert said == []  # nothing to watch
    assert epochs(tmp_path / "run") == ["00000001", "00000002"]


def test_a_run_that_ends_while_it_is_watched_lets_go(new_lease: NewLease, elsewhere: Callable[[], None]) -> None:
    first = new_lease(renew_s=0.5)
    first.take(say)
    elsewhere()
    threading.Timer(0.1, first.release).start()
    said: list[str] = []
    new_lease(stale_s=5).take(said.append)
    assert len(said) == 1  # it need not take over


def test_of_many_at_once_one_gets_the_place(new_lease: NewLease) -> None:
    leases, held = [new_lease(renew_s=5) for _ in range(8)], list[Lease]()

    def take(lease: Lease) -> None:
        try:
            lease.take(say)
        except OutputHeldError:
            return
        held.append(lease)

    threads = [threading.Thread(target=take, args=(lease,)) for lease in leases]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(held) == 1
    held[0].check()


class FaultyStore(Store):
    """A store with one fault, named by `fault`."""

    fault = ""
    num_reads = 0

    def put_new(self, name: str, source: bytes | Path) -> bool:
        if self.fault == "ignores the condition":
            self.put(name, source)
            return True
        done = super().put_new(name, source)
        return done and self.fault != "loses the answer"

    def list(self, prefix: str = "") -> list[str]:
        found = super().list(prefix)
        return found[:-1] if self.fault == "lists late" else found

    def read(self, name: str) -> bytes:
        self.num_reads += 1
        if self.fault == "wrong byte" and self.num_reads % 2:
            return b"x" + super().read(name)
        if self.fault == "is away once" and self.num_reads == 2:
            time.sleep(0.5)
        return super().read(name)


@pytest.fixture
def faulty(tmp_path: Path) -> FaultyStore:
    return FaultyStore(tmp_path / "run")


def test_a_first_try_whose_answer_is_lost_still_counts(
    new_lease: NewLease, faulty: FaultyStore, tmp_path: Path
) -> None:
    faulty.fault = "loses the answer"
    new_lease(faulty).take(say)
    assert epochs(tmp_path / "run") == ["00000001"]


def test_a_listing_that_is_behind_gives_no_number_twice(
    new_lease: NewLease, faulty: FaultyStore, tmp_path: Path
) -> None:
    first = new_lease(faulty)
    first.take(say)
    faulty.fault = "lists late"
    with pytest.raises(OutputHeldError):
        new_lease(faulty).take(say)
    (tmp_path / "run/writers/00000002.json").write_text(Writer.here().model_dump_json())
    with pytest.raises(OutputLostError):
        first.check()


def test_one_wrong_byte_ends_no_run(new_lease: NewLease, faulty: FaultyStore) -> None:
    lease = new_lease(faulty, renew_s=5)
    lease.take(say)
    faulty.fault, faulty.num_reads = "wrong byte", 0
    lease.check()


def test_where_the_condition_is_ignored_the_overwritten_run_finds_out(new_lease: NewLease, faulty: FaultyStore) -> None:
    first, second = new_lease(faulty, renew_s=5), new_lease(faulty, renew_s=5)
    faulty.fault = "ignores the condition"
    first.take(say)
    second._epoch = 1  # both saw an empty place, and this one wrote later
    faulty.put_new("writers/00000001.json", second._record())
    with pytest.raises(OutputLostError):
        first.check()


def test_a_store_that_is_away_is_no_silence_of_the_holder(
    new_lease: NewLease, elsewhere: Callable[[], None], faulty: FaultyStore
) -> None:
    new_lease(renew_s=0.2).take(say)
    elsewhere()
    faulty.fault = "is away once"
    with pytest.raises(OutputHeldError):
        new_lease(faulty, renew_s=0.2, stale_s=0.3).take(say)


def test_a_place_that_cannot_be_written_is_named(new_lease: NewLease, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    with pytest.raises(StoreError, match=r"cannot .*/run/writers"):
        new_lease().take(say)


@pytest.mark.s3
def test_a_place_on_s3_has_one_writer(
    new_lease: NewLease, elsewhere: Callable[[], None], s3_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3_server.env.items():
        monkeypatch.setenv(name, value)
    url = s3_server.new_url()
    first, second = new_lease(Store(url)), new_lease(Store(url), stale_s=0.5)
    first.take(say)
    elsewhere()
    with pytest.raises(OutputHeldError):
        new_lease(Store(url), stale_s=60).take(say)
    stop_renewing(first)
    second.take(say)
    with pytest.raises(OutputLostError):
        first.check()
    second.check()
    second.release()
    said: list[str] = []
    new_lease(Store(url)).take(said.append)
    assert said == []
