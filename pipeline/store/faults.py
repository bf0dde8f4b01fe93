"""Faults of a store: one cause for each of the exceptions of botocore, aiohttp and the system.

Exceptions are recognised by class name and HTTP status, so no client library has to be imported or installed.
"""

import errno
from typing import Any, NamedTuple


class Fault(NamedTuple):
    """The cause of a failed request. `kind` is the label of the metric; `cause` completes "cannot read X: ..."."""

    kind: str
    cause: str
    transient: bool = False
    """Whether the same request may succeed later."""
    retry_after_s: float = 0.0
    """The pause that the store asks for (header `Retry-After`)."""


class ShortBodyError(OSError):
    """An object ends before the last byte of the request."""


class MissingBucketError(OSError):
    """There is no such object because its bucket does not exist."""


# Not transient: the caller decides whether to retry, since it knows whether the bucket existed before.
_NO_BUCKET = Fault("bucket", "there is no such bucket")
_MISSING = Fault("missing", "there is no such object")
_DENIED = Fault("permission", "permission denied; check the keys and their permissions")
_FULL = Fault("disk_full", "the disk is full")
_UNREACHABLE = Fault("connection", "the endpoint cannot be reached", transient=True)
_SLOW = Fault("slow", "the store is too slow", transient=True)
_BROKEN_OFF = Fault("cut", "the connection broke off", transient=True)
_NO_CREDENTIALS = Fault("credentials", "no usable AWS credentials; set AWS_ACCESS_KEY_ID, AWS_PROFILE or a role")

_BY_CODE = {
    "NoSuchBucket": _NO_BUCKET,
    "InvalidAccessKeyId": Fault("permission", "the endpoint does not know this access key"),
    "SignatureDoesNotMatch": Fault("permission", "the secret key does not belong to the access key"),
    "ExpiredToken": Fault("permission", "the session token has expired; get a new one"),
    "InvalidToken": Fault("permission", "the session token is not valid; get a new one, or unset AWS_SESSION_TOKEN"),
    "RequestTimeTooSkewed": Fault("permission", "the clock of this machine is wrong"),
    "InvalidRange": Fault("short", "it is shorter than expected"),
    "RequestTimeout": _BROKEN_OFF,
    "SlowDown": Fault("throttled", "the store asks to slow down", transient=True),
}
_BY_STATUS = {
    401: _DENIED,
    403: _DENIED,
    404: _MISSING,
    409: Fault("conflict", "another process is writing it", transient=True),
    412: Fault("replaced", "it was replaced by another object while it was read"),
    416: _BY_CODE["InvalidRange"],
    429: _BY_CODE["SlowDown"],
    503: _BY_CODE["SlowDown"],
}
_BY_ERRNO = {errno.ENOSPC: _FULL, errno.EDQUOT: _FULL}
# Looked up for the class of the exception, then for its base classes in order.
_BY_CLASS = {
    "FileNotFoundError": _MISSING,
    "PermissionError": _DENIED,
    "SSLError": Fault("tls", "the endpoint's certificate is not accepted"),
    "ClientConnectorSSLError": Fault("tls", "the endpoint's certificate is not accepted"),
    "ClientConnectorCertificateError": Fault("tls", "the endpoint's certificate is not accepted"),
    "NoCredentialsError": _NO_CREDENTIALS,
    "PartialCredentialsError": _NO_CREDENTIALS,
    "CredentialRetrievalError": _NO_CREDENTIALS,
    "ProfileNotFound": _NO_CREDENTIALS,
    "TokenRetrievalError": _NO_CREDENTIALS,
    "SSOError": _NO_CREDENTIALS,
    "TooSlowError": _SLOW,
    "ConnectionResetError": _BROKEN_OFF,
    "BrokenPipeError": _BROKEN_OFF,
    "ConnectionError": _UNREACHABLE,
    "ClientConnectorError": _UNREACHABLE,
    "ConnectError": _UNREACHABLE,  # httpx
    "ConnectTimeout": _UNREACHABLE,
    "gaierror": _UNREACHABLE,
    "HTTPClientError": _BROKEN_OFF,
    "ResponseParserError": _BROKEN_OFF,
    "IncompleteReadError": _BROKEN_OFF,
    "ClientPayloadError": _BROKEN_OFF,
    "ClientConnectionError": _BROKEN_OFF,
    "TimeoutError": _BROKEN_OFF,
    "TransportError": _BROKEN_OFF,  # httpx
}
_MAX_LENGTH = 400
_FOREIGN = ("OSError", "BotoCoreError", "ClientError")


def explain(error: Exception) -> Fault | None:
    """The cause of a failed request; None if the exception is our bug and not a fault of the store."""
    fault = _explain(error)
    return fault._replace(retry_after_s=_retry_after_s(error)) if fault and fault.transient else fault


def _explain(error: Exception) -> Fault | None:
    if isinstance(error, FileNotFoundError) and isinstance(error.__cause__, Exception):
        hidden = _explain(error.__cause__)
        if hidden and hidden.kind != "other":  # some clients look up files in a dict: the cause is then a KeyError
            return hidden
    code, status = _answer(error)
    if fault := _BY_CODE.get(code) or _BY_STATUS.get(status):
        return fault
    if status >= 500:
        return Fault("server", f"the store answered {status} {code}".rstrip(), transient=True)
    if fault := _BY_ERRNO.get(getattr(error, "errno", None) or 0):
        return fault
    if isinstance(error, MissingBucketError):
        return _NO_BUCKET
    if isinstance(error, ShortBodyError):
        return Fault("short", one_line(error))
    classes = [base.__name__ for base in type(error).__mro__]
    for name in classes:
        if fault := _BY_CLASS.get(name):
            return fault._replace(cause=f"{fault.cause} ({one_line(error)})") if fault.transient else fault
    if str(error).startswith("Invalid endpoint"):  # a bare ValueError of botocore
        return Fault("endpoint", f"{one_line(error)}; an endpoint URL begins with http:// or https://")
    is_foreign = any(name in _FOREIGN for name in classes) or _is_raised_outside(error)
    return Fault("other", one_line(error)) if is_foreign else None


def _is_raised_outside(error: Exception) -> bool:
    """Whether a client library raised it, which may raise anything, and not our own code."""
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    return trace is not None and not trace.tb_frame.f_globals.get("__name__", "").startswith("pipeline.")


def is_missing(error: FileNotFoundError) -> bool:
    """Whether the object is really missing: fsspec's HTTP file system says "not found" for every failure."""
    fault = explain(error)
    return fault is not None and fault.kind == _MISSING.kind


def is_conflict(error: Exception) -> bool:
    """Whether a conditional write was refused because the object exists."""
    return isinstance(error, FileExistsError) or _answer(error)[1] == 412


def is_past_end(error: Exception) -> bool:
    """Whether a range was refused because the object ends before it."""
    return _answer(error)[1] == 416


def one_line(error: Exception) -> str:
    """The message of an exception on one line, never empty, shortened if it is long."""
    strerror = getattr(error, "strerror", None)
    text = " ".join(str(strerror or error).split()) or type(error).__name__
    return text if len(text) <= _MAX_LENGTH else f"{text[:_MAX_LENGTH]} ..."


def _answer(error: Exception) -> tuple[str, int]:
    """Error code and HTTP status of the server's answer; "" and 0 if there was no answer."""
    if response := _response(error):
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return str(response.get("Error", {}).get("Code", "")), int(status)
    answer = getattr(error, "response", None)  # requests, httpx
    return "", int(getattr(error, "status", None) or getattr(answer, "status_code", None) or 0)  # the former: aiohttp


def _retry_after_s(error: Exception) -> float:
    """Seconds of the answer's `Retry-After`; 0 if it is missing, or a date (no object store sends dates)."""
    headers = _response(error).get("ResponseMetadata", {}).get("HTTPHeaders", {})
    value = str(headers.get("retry-after", ""))
    return float(value) if value.isdecimal() else 0.0


def _response(error: Exception) -> dict[str, Any]:
    """The server's answer as parsed by botocore; empty if there was none."""
    for candidate in (error, error.__cause__):
        response: Any = getattr(candidate, "response", None)
        if isinstance(response, dict):
            return response
    return {}
