"""Files with many images in one array of pixels: idx, CIFAR's pickles, STL-10's binaries, PatchCamelyon's HDF5.

The loaders cache the open files, so that a worker reads or maps each file once.
"""

import gzip
import math
import pickle
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from pipeline.console.extras import optional_module
from tools.shard_builder.readers.annotations import reading
from tools.shard_builder.readers.pixels import Pixels

_NUM_OPEN = 8  # CIFAR-10 has six files
_IDX_UINT8 = 0x08
_MOST_UNPACKED_BYTES = 2**28  # MNIST has 47 million
_STL_SIDE = 96
_CIFAR_SIDE = 32


@lru_cache(_NUM_OPEN)
def load_idx(path: str) -> NDArray[np.uint8]:
    """An idx-ubyte file with any number of dimensions: mapped if it is plain, read if it is gzipped."""
    with reading(Path(path), "an idx-ubyte file"), _open(path) as file:
        zeros, kind, num_dimensions = int.from_bytes(file.read(2)), *file.read(2)
        if zeros or kind != _IDX_UINT8:
            raise ValueError("its header is wrong")
        shape = tuple(int.from_bytes(file.read(4)) for _ in range(num_dimensions))
        if path.endswith(".gz"):
            if (num_bytes := math.prod(shape)) > _MOST_UNPACKED_BYTES:
                raise ValueError(
                    f"its header claims {num_bytes:,} bytes, more than {_MOST_UNPACKED_BYTES:,}; unpack it"
                )
            return np.frombuffer(file.read(num_bytes + 1), dtype=np.uint8).reshape(shape)
        return np.memmap(path, dtype=np.uint8, mode="r", offset=file.tell()).reshape(shape)


def _open(path: str) -> BinaryIO:
    return gzip.open(path) if path.endswith(".gz") else open(path, "rb")  # type: ignore[return-value]


@lru_cache(_NUM_OPEN)
def load_stl_images(path: str) -> Pixels:
    """STL-10's `*_X.bin`: 96 x 96 images, stored by channel, then by column. Mapped, not read."""
    with reading(Path(path), "a file of STL-10 images"):
        return np.memmap(path, dtype=np.uint8, mode="r").reshape(-1, 3, _STL_SIDE, _STL_SIDE).transpose(0, 3, 2, 1)


@lru_cache(_NUM_OPEN)
def load_cifar(path: str) -> dict[bytes, Any]:
    """The dictionary in a file of CIFAR's "python version"."""
    with reading(Path(path), "a batch of CIFAR's python version"), open(path, "rb") as file:
        try:
            return dict(_CifarUnpickler(file, encoding="bytes").load())
        except Exception as error:  # on garbled bytes the unpickler may raise anything
            raise ValueError(error) from None


def load_cifar_images(path: str) -> Pixels:
    """The images of a CIFAR batch: 32 x 32 RGB."""
    with reading(Path(path), "a batch of CIFAR's python version"):
        data: Pixels = load_cifar(path)[b"data"]
        return data.reshape(-1, 3, _CIFAR_SIDE, _CIFAR_SIDE).transpose(0, 2, 3, 1)


class _CifarUnpickler(pickle.Unpickler):
    """Loads arrays of numbers and refuses everything else, because a pickle can run any code."""

    def find_class(self, module: str, name: str) -> Any:
        module = module.replace("numpy.core", "numpy._core")  # the files use the older name
        if (module, name) in {("numpy._core.multiarray", "_reconstruct"), ("numpy", "ndarray"), ("numpy", "dtype")}:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it refers to {module}.{name}, which no array needs")


@lru_cache(_NUM_OPEN)
def load_hdf5(path: str, variable: str) -> Any:
    """A variable of an HDF5 file; a row is read when it is indexed."""
    h5py = optional_module("h5py")
    with reading(Path(path), f"an HDF5 file with the variable {variable!r}"):
        return h5py.File(path, "r")[variable]


def load_patch_camelyon_images(path: str) -> Pixels:
    """PatchCamelyon's `*_x.h5`: 96 x 96 RGB images."""
    images: Pixels = load_hdf5(path, "x")
    return images
