"""Load a checkpoint by its URL, in the format of this project or of EsViT's authors.

A checkpoint may come from elsewhere. Its stored config decides which network is built, and nothing more: it cannot
choose what is imported, downloaded or read, and its tensors must fit before memory is taken for the network.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from esvit import own_parts
from esvit.checkpoints import files, resuming
from esvit.checkpoints.files import CheckpointError
from esvit.checkpoints.official import load_official
from esvit.models import BackboneConfig, build_backbone
from esvit.models.student_teacher import ModelConfig
from pipeline.store import Store

# Arguments of timm that say where a network gets its first weights from: a checkpoint has its own.
_ORIGINS = ("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir")


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
        model = ModelConfig.model_validate(saved.get("config", {}).get("model"))
    except ValidationError as error:
        key = ".".join(map(str, ("model", *error.errors()[0]["loc"])))
        raise CheckpointError(
            f"another release wrote the checkpoint: this release does not know its '{key}'; use the other release"
        ) from None
    for name in (model.backbone.name, model.head.name):
        own_parts.check_allowed(name, allow_import)
    options = {key: value for key, value in (model.backbone.options or {}).items() if key not in _ORIGINS}
    return model.replace(backbone=model.backbone.replace(options=options)) if model.backbone.options else model


def backbone_of(
    saved: dict[str, Any], network: str, allow_import: Sequence[str] = ()
) -> tuple[BackboneConfig, dict[str, Tensor]]:
    """The settings of the backbone of a checkpoint's "teacher" or "student", and its tensors, which fit.

    Raises:
        CheckpointError: see `model_config` and `network_of`; or the tensors do not fit the settings.
        OwnPartError: see `model_config`.
    """
    config, prefix = model_config(saved, allow_import).backbone, "backbone."
    tensors = network_of(saved, network).items()
    state = {name.removeprefix(prefix): tensor for name, tensor in tensors if name.startswith(prefix)}
    if own_parts.is_path(config.name):
        return config, state  # a class of the user's may not support the device "meta"
    if sum(config.depths or ()) > len(state):
        raise CheckpointError(f"the checkpoint's config has more blocks than its {network} has tensors")
    with torch.device("meta"):  # shapes without memory
        expected = build_backbone(config, drop_path=False).state_dict()
    wrong = sorted(
        name
        for name in expected.keys() | state.keys()
        if name not in expected or name not in state or expected[name].shape != state[name].shape
    )
    if wrong:
        raise CheckpointError(
            f"the checkpoint's {network} does not fit the network of its config: {len(wrong)} tensors are missing, "
            f"unknown or of another shape, such as {wrong[0]}"
        )
    return config, state
