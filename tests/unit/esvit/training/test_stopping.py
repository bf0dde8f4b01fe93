"""Signals in a run: the first ends it after a step, the second Ctrl-C at once; before the loop nothing waits."""

import signal
import threading
import time

import pytest
import torch

from esvit.distributed import World
from esvit.training.stopping import stopping
from pipeline.console.ending import EXIT_INTERRUPTED, EXIT_RETRY, GRACE_S

ALONE = World(rank=0, local_rank=0, size=1, device=torch.device("cpu"))


@pytest.mark.parametrize(
    ("number", "cause", "status"),
    [(signal.SIGTERM, "SIGTERM", EXIT_RETRY), (signal.SIGINT, "Ctrl-C", EXIT_INTERRUPTED)],
)
def test_the_first_signal_stops_after_a_step(
    number: signal.Signals, cause: str, status: int, capfd: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(number)
    with stopping(ALONE) as stop, stop.loop():
        assert not stop.agreed(now=True)
        signal.raise_signal(number)
        assert stop.agreed(now=False)  # one rank need not wait for a logged step
        assert (stop.cause, stop.status) == (cause, status)
    assert signal.getsignal(number) == before
    assert ("Ctrl-C again ends the run at once" in capfd.readouterr().err) == (cause == "Ctrl-C")


def test_the_second_ctrl_c_ends_the_run_at_once_and_the_third_kills() -> None:
    with stopping(ALONE) as stop, stop.loop():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) == signal.SIG_DFL


def test_ctrl_c_after_sigterm_does_not_wait_either() -> None:
    with stopping(ALONE) as stop, stop.loop():
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)  # a scheduler may repeat itself
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert stop.status == EXIT_RETRY


def test_before_the_loop_a_signal_ends_the_start() -> None:
    with stopping(ALONE):
        with pytest.raises(SystemExit) as exit_info:
            signal.raise_signal(signal.SIGTERM)
        assert exit_info.value.code == EXIT_RETRY
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_a_single_process_does_not_wait_for_its_batch_and_several_ranks_not_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    several = World(rank=1, local_rank=1, size=2, device=torch.device("cpu"))
    for world, waits in ((ALONE, False), (several, True)):
        with stopping(world) as stop, stop.loop():
            assert not stop.ends_wait()
            signal.raise_signal(signal.SIGTERM)
            assert stop.ends_wait() != waits
    monkeypatch.setattr("esvit.training.stopping._WAIT_S", -1.0)
    assert stop.ends_wait()


def test_in_the_loop_nothing_hurries_and_after_it_the_grace_begins() -> None:
    with stopping(ALONE) as stop:
        assert stop.deadline(5.0) == 5.0 + GRACE_S
        with stop.loop():
            assert stop.deadline(5.0) is None
        left_s = time.monotonic()
        assert stop.deadline(5.0) == pytest.approx(left_s + GRACE_S, abs=0.1)
        assert stop.deadline(left_s + 9) == left_s + 9 + GRACE_S


def test_in_another_thread_signals_are_left_alone() -> None:
    before, seen = signal.getsignal(signal.SIGINT), []

    def run() -> None:
        with stopping(ALONE) as stop:
            seen.append((signal.getsignal(signal.SIGINT), stop.agreed(now=True)))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [(before, False)]
