"""How a command ends."""

import subprocess
import sys

import pytest

from pipeline.command import EXIT_BROKEN_PIPE, EXIT_INTERRUPTED, EXIT_USER_ERROR, run_command
from pipeline.errors import UserError


def raising(error: BaseException) -> int:
    raise error


@pytest.mark.parametrize(("result", "status"), [(None, 0), (0, 0), (3, 3)])
def test_the_result_is_the_exit_status(result: int | None, status: int) -> None:
    with pytest.raises(SystemExit) as exit_info:
        run_command(lambda: result)
    assert exit_info.value.code == status


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (UserError("no such bucket"), EXIT_USER_ERROR, "error: no such bucket\n"),
        (KeyboardInterrupt(), EXIT_INTERRUPTED, "interrupted\n"),
    ],
)
def test_a_mistake_of_the_user_is_one_line(
    error: BaseException, status: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_info:
        run_command(lambda: raising(error))
    assert exit_info.value.code == status
    assert capsys.readouterr() == ("", line)


def test_our_mistakes_keep_their_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        run_command(lambda: raising(ZeroDivisionError()))


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    code = "import sys; from pipeline.command import run_command; run_command(lambda: print('line\\n' * 100_000))"
    writer = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert writer.stdout and writer.stderr
    writer.stdout.readline()
    writer.stdout.close()
    assert writer.stderr.read() == b""
    writer.stderr.close()
    assert writer.wait() == EXIT_BROKEN_PIPE
