"""The root of the error tree.

Every mistake a user can make (a missing file, a mistyped key, a bucket without permission) is a `UserError`:
one sentence that names the thing and says what to do. Each room derives its own class from it, so that a caller
may catch broadly (`UserError`) or narrowly (`ManifestError`). Everything else is our bug and keeps its traceback.
"""


class UserError(ValueError):
    """Something outside this program is wrong; the message is the one sentence that the user sees."""
