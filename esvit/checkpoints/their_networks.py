"""Find the network of ours that fits a checkpoint of the authors: the row of our table with its tensor shapes."""

import argparse
import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from esvit.checkpoints.their_names import FAMILIES, Family
from esvit.models import BACKBONES, BackboneConfig
from esvit.models.cvt import CvtArchitecture
from esvit.models.head import HeadConfig
from esvit.models.student_teacher import ModelConfig, Network
from esvit.models.swin import SwinArchitecture
from esvit.models.vil import VilArchitecture
from esvit.models.vit import VitArchitecture
from pipeline.errors import UserError

State = Mapping[str, Tensor]
_MODE = "MODEL.SPEC.MSVIT.MODE"  # a ViL's, among the words after the options of the authors' command


class OfficialCheckpointError(UserError):
    """The file is not a published EsViT checkpoint, or holds an unknown network."""


def model_of(origin: str, state: State, family: Family, arguments: argparse.Namespace) -> ModelConfig:
    """The network whose tensors `state` holds, by our names; error messages name `origin`.

    Raises:
        OfficialCheckpointError: no network of ours has exactly these tensors in these shapes.
    """
    head = _head(state, arguments)
    found: list[tuple[list[str], ModelConfig]] = []
    for name, row in BACKBONES.items():
        if _family_of(row) == family.name:
            try:
                model = ModelConfig(backbone=BackboneConfig(name=name, **_changes(row, state, arguments)), head=head)
            except ValidationError:  # another number of stages
                continue
            found.append((problems(state, model), model))
    if not found:
        raise OfficialCheckpointError(f"{origin} is a {family.name}, but its stages fit none of ours")
    least, model = min(found, key=lambda candidate: len(candidate[0]))
    refuse(origin, least, model)
    return model


def refuse(origin: str, found: list[str], model: ModelConfig) -> None:
    """Raise `OfficialCheckpointError` if `found` has any problem."""
    if found:
        raise OfficialCheckpointError(
            f"{origin} does not fit {model.backbone.name}: {min(found)} ({len(found)} problems in all)"
        )


def problems(state: State, model: ModelConfig) -> list[str]:
    """Differences between `state`, by our names, and the tensors of the network; heads may be missing."""
    with torch.device("meta"):
        network = Network(model, drop_path=False, with_regions=any(name.startswith("region_head.") for name in state))
    part: torch.nn.Module = network if any(name.startswith("view_head.") for name in state) else network.backbone
    prefix = "" if part is network else "backbone."
    expected = {prefix + name: tensor.shape for name, tensor in part.state_dict().items()}
    found = [f"it lacks {name}" for name in expected.keys() - state.keys()]
    found += [f"it has {name}, which the network lacks" for name in state.keys() - expected.keys()]
    found += [
        f"{name} is of shape {list(state[name].shape)}, not {list(shape)}"
        for name, shape in expected.items()
        if name in state and state[name].shape != shape
    ]
    return found


def _family_of(row: Any) -> str:
    kinds = {SwinArchitecture: "Swin", VilArchitecture: "ViL", CvtArchitecture: "CvT", VitArchitecture: "DeiT or ViT"}
    name = kinds.get(type(row), "ResNet")
    assert name in {family.name for family in FAMILIES}
    return name


def _head(state: State, arguments: argparse.Namespace) -> HeadConfig:
    if "view_head.last_layer.weight_v" not in state:
        return HeadConfig()
    last_layer = state["view_head.last_layer.weight_v"]
    layers = [tensor for key, tensor in state.items() if re.fullmatch(r"view_head\.mlp(\.\d+)?\.weight", key)]
    layers = [tensor for tensor in layers if tensor.ndim == 2]  # not those of batch norm
    return HeadConfig(
        num_prototypes=len(last_layer),
        hidden=len(layers[0]) if len(layers) > 1 else HeadConfig().hidden,
        bottleneck=last_layer.shape[1],
        num_layers=len(layers),
        batch_norm="view_head.mlp.1.running_mean" in state,
        norm_last_layer=bool(getattr(arguments, "norm_last_layer", False)),
    )


def _changes(row: Any, state: State, arguments: argparse.Namespace) -> dict[str, Any]:
    """Settings in which the tensors, or the arguments of the run, differ from the row."""
    if isinstance(row, SwinArchitecture):
        return _swin(row, state)
    if isinstance(row, VilArchitecture):
        return _vil(row, state, arguments)
    if isinstance(row, CvtArchitecture):
        return _cvt(state)
    return _vit(state) if isinstance(row, VitArchitecture) else {}


def _swin(row: SwinArchitecture, state: State) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    size = row.image_size
    if (places := state.get("backbone.absolute_pos_embed")) is not None:
        size = math.isqrt(places.shape[1]) * row.patch_size
        changes |= {"absolute_positions": True, "image_size": size}
    hidden = state.get("backbone.layers.0.blocks.0.mlp.fc1.weight")
    if hidden is not None and (ratio := hidden.shape[0] / hidden.shape[1]) != row.mlp_ratio:
        changes["mlp_ratio"] = ratio
    windows = _sides(state, r"backbone\.layers\.(\d+)\.blocks\.0\.attn\.relative_position_bias_table")
    windows = [(side + 1) // 2 for side in windows]
    maps = [size // row.patch_size]
    while len(maps) < len(windows):
        maps.append((maps[-1] + 1) // 2)
    # A single number is fitted to each stage's map.
    fitted = [min(windows[0], side) for side in maps]
    return {**changes, "window_size": windows[0] if windows == fitted else tuple(windows)}


def _vil(row: VilArchitecture, state: State, arguments: argparse.Namespace) -> dict[str, Any]:
    sides = _sides(state, r"backbone\.stages\.(\d+)\.blocks\.0\.attn\.local_bias")
    windows = {(side + 1) // 4 for side, sparse in zip(sides, row.sparse, strict=False) if sparse}
    sizes = {
        (side + 1) // 2 * 2 ** (stage + 2)
        for stage, (side, sparse) in enumerate(zip(sides, row.sparse, strict=False))
        if not sparse
    }
    words = [str(word) for word in getattr(arguments, "opts", None) or []]
    mode = dict(zip(words[::2], words[1::2], strict=False)).get(_MODE)
    return {
        **({"window_size": windows.pop()} if len(windows) == 1 else {}),
        **({"image_size": sizes.pop()} if len(sizes) == 1 else {}),
        **({"mode": int(mode)} if mode in ("0", "1") else {}),
    }


def _cvt(state: State) -> dict[str, Any]:
    sides = _sides(state, r"backbone\.stages\.(\d+)\.1\.attn\.relative_position_bias_table")
    return {"relative_positions": True, "window_size": tuple((side + 1) // 2 for side in sides)} if sides else {}


def _vit(state: State) -> dict[str, Any]:
    patch = state["backbone.network.patch_embed.proj.weight"].shape[-1]
    size = math.isqrt(state["backbone.network.pos_embed"].shape[1]) * patch
    return {} if (patch, size) == (16, 224) else {"options": {"patch_size": patch, "img_size": size}}


def _sides(state: State, pattern: str) -> list[int]:
    """Side of each stage's square table of positions."""
    tables = {int(match[1]): tensor for name, tensor in state.items() if (match := re.fullmatch(pattern, name))}
    return [math.isqrt(len(tables[stage])) for stage in sorted(tables)]
