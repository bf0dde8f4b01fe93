"""The root of the error tree, and how an error reaches the person at the terminal.

Every mistake a user can make (a missing file, a mistyped key, a bucket without permission) is a `UserError`:
one sentence that names the thing and says what to do. Each room derives its own class from it, so that a caller
may catch broadly (`UserError`) or narrowly (`ManifestError`). Everything else is our bug and keeps its traceback.
"""

import os
import sys
from collections.abc import Callable

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141  # 128 + SIGPIPE, as a shell reports it


class UserError(ValueError):
    """Something outside this program is wrong; the message is the one sentence that the user sees."""


def run_command(main: Callable[[], int | None]) -> None:
    """Run the body of a console script and exit with 0 or its result, 2 on a `UserError`, 130 on Ctrl-C."""
    try:
        status = main()
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(EXIT_USER_ERROR)
    except BrokenPipeError:  # whoever read our output, `head` say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_BROKEN_PIPE)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(EXIT_INTERRUPTED)
    sys.exit(status or 0)
