"""Load a checkpoint by its URL, in the format of this project or of EsViT's authors."""

from collections.abc import Callable, Sequence
from typing import Any

from pydantic import ValidationError
from torch import Tensor

from esvit import own_parts
from esvit.checkpoints import files, resuming
from esvit.checkpoints.files import CheckpointError
from esvit.checkpoints.official import load_official
from esvit.models.student_teacher import ModelConfig
from pipeline.store import Store


def load(url: str, say: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """Read one checkpoint, on the CPU. `url` names a `.pt` file, or a folder: then the newest undamaged one is read.

    A local `.pth` file is read in the format of EsViT's authors.

    Raises:
        CheckpointError: there is no checkpoint, or it cannot be read.
        StoreError: the store does not deliver it.
    """
    if url.endswith(".pth"):
        return load_official(url, say)
    folder, _, name = url.rpartition("/")
    if files.is_name(name):
        return files.read(Store(folder or "."), name)
    found = resuming.newest(Store(url), say)
    if found is None:
        raise CheckpointError(f"there is no checkpoint (step-NNNNNNNN.pt and .json) in {url}")
    return found.saved


def network_of(saved: dict[str, Any], network: str) -> dict[str, Tensor]:
    """The tensors of the "teacher" or "student" of a checkpoint.

    Raises:
        CheckpointError: the checkpoint has only the other network.
    """
    if network not in saved:
        other = "student" if network == "teacher" else "teacher"
        raise CheckpointError(f"the checkpoint has no {network}; add --network {other} to take its {other}")
    state: dict[str, Tensor] = saved[network]
    return state


def model_config(saved: dict[str, Any], allow_import: Sequence[str] = ()) -> ModelConfig:
    """The model settings of a checkpoint.

    Args:
        allow_import: Modules and packages from which the checkpoint may name classes to build. A checkpoint from
            elsewhere must not choose what is imported.

    Raises:
        CheckpointError: another release wrote the checkpoint, with settings that this release does not know.
        OwnPartError: the checkpoint names a class outside `allow_import`.
    """
    try:
        model = ModelConfig.model_validate(saved["config"]["model"])
    except ValidationError as error:
        key = ".".join(map(str, error.errors()[0]["loc"]))
        raise CheckpointError(
            f"another release wrote the checkpoint: this release does not know its 'model.{key}'; use the other release"
        ) from None
    for name in (model.backbone.name, model.head.name):
        own_parts.check_allowed(name, allow_import)
    return model
