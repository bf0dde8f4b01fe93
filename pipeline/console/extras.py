"""Optional packages, and the extra of this distribution that installs each."""

import importlib
from typing import Any

from pipeline.errors import UserError

EXTRAS = {
    "torch": "train",
    "torchvision": "train",
    "timm": "train",
    "cv2": "train",
    "simplejpeg": "train",
    "safetensors": "train",
    "psutil": "train",
    "nvidia": "dali",
    "ray": "ray",
    "pyarrow": "parquet",
    "h5py": "transfer",
    "scipy": "transfer",
}
"""Package -> extra."""


class MissingPackageError(UserError):
    """A package is not installed; the message says how to install it."""


def missing_package(module: str) -> MissingPackageError | None:
    """The error to raise if `module` cannot be found; None if no extra installs it."""
    package = module.partition(".")[0]
    if package not in EXTRAS:
        return None
    return MissingPackageError(
        f"this needs the package {package}; run: pip install 'esvit-streaming[{EXTRAS[package]}]'"
    )


def optional_module(name: str) -> Any:
    """Import a module of a package in `EXTRAS`.

    Raises:
        MissingPackageError: the package is not installed.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise missing_package(error.name or name) or error from None
