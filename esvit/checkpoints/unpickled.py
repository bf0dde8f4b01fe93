"""Open what `torch.save` wrote, from anybody: it runs no code, and takes no more memory than the file has bytes."""

import io
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch

_CODE = re.compile(r"GLOBAL (\S+)")


class DamagedError(Exception):
    """The bytes are no checkpoint; the message completes "X is not a checkpoint: ..."."""


def unpickled(source: Path | io.BytesIO) -> dict[str, Any]:
    """The dictionary in a file of `torch.save`, its tensors on the CPU.

    Raises:
        DamagedError: the bytes are no such file, or hold no dictionary, or ask for code to be run.
        OSError: the file cannot be read.
    """
    try:
        _check_sizes(source)
        if isinstance(source, io.BytesIO):
            source.seek(0)
        saved = torch.load(source, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except pickle.UnpicklingError as error:
        found = _CODE.search(str(error))
        raise DamagedError(
            f"it wants to run {found[1]}, but only tensors and plain values are taken" if found else _first_line(error)
        ) from None
    except Exception as error:  # on garbled bytes the unpickler may raise anything
        raise DamagedError(_first_line(error)) from None
    if not isinstance(saved, dict):
        raise DamagedError(f"it holds a {type(saved).__name__}")
    return saved


def _check_sizes(source: Path | io.BytesIO) -> None:
    """Refuse a zip whose members are together larger than itself: `torch.save` does not compress."""
    if not zipfile.is_zipfile(source):
        return
    with zipfile.ZipFile(source) as archive:
        claimed = sum(member.file_size for member in archive.infolist())
    num_bytes = source.stat().st_size if isinstance(source, Path) else len(source.getbuffer())
    if claimed > num_bytes:
        raise DamagedError(f"it has {num_bytes:,} bytes, and claims to hold {claimed:,}")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
