"""What the authors' code calls the tensors of a network, and which tensor of ours each of them is, or is a part of.

Most is renaming. ViL's queries are apart from its keys and values there and one layer with them here, and CvT's
convolutions of one pixel are linear layers here.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

State = Mapping[str, Tensor]
_HEADS = {"head.": "view_head.", "head_dense.": "region_head."}
_VIL = {
    0: {"proj.": "proj.", "norm_embed.": "norm.", "cls_token": "global_tokens"},
    1: {
        "norm.": "norm1.",
        "attn.qkv.": "attn.qkv.",
        "attn.query.": "attn.qkv.",
        "attn.kv.": "attn.qkv.",
        "attn.proj.": "attn.proj.",
        "attn.local_relative_position_bias_table": "attn.local_bias",
        "attn.g2l_relative_position_bias": "attn.mixed_bias",
        "attn.g2g_relative_position_bias": "attn.global_bias",
    },
    2: {"norm.": "norm2.", "mlp.": "mlp."},
}
_CVT = {
    "0.norm.": "norm1.",
    "0.fn.qkv.dw.": "attn.depthwise.",
    "0.fn.qkv.bn.": "attn.norm.",
    "0.fn.qkv.pw.": "attn.qkv.",
    "0.fn.proj_out.": "attn.proj.",
    "0.fn.rel_pos_bias_table": "attn.relative_position_bias_table",
    "1.norm.": "norm2.",
    "1.fn.net.0.": "mlp.0.",
    "1.fn.net.2.": "mlp.2.",
}


def _swin(name: str) -> str:
    """The downsampling of a stage is counted to the stage before there."""
    return re.sub(r"^layers\.(\d+)\.downsample", lambda match: f"layers.{int(match[1]) + 1}.downsample", name)


def _vil(name: str) -> str:
    """A stage is an embedding and then, in turn, the attention and the MLP of each block."""
    match = re.fullmatch(r"layer(\d+)\.(\d+)\.(.+)", name)
    if match is None:
        return name
    stage, place = int(match[1]) - 1, int(match[2])
    if place == 0:
        return f"stages.{stage}.{_renamed(match[3], _VIL[0])}"
    return f"stages.{stage}.blocks.{(place - 1) // 2}.{_renamed(match[3], _VIL[2 - place % 2])}"


def _cvt(name: str) -> str:
    """A stage is an embedding and a transformer, whose layers are pairs of attention and MLP."""
    if match := re.fullmatch(r"stage(\d+)\.0\.(.+)", name):
        return f"stages.{match[1]}.0.{match[2]}"
    if match := re.fullmatch(r"stage(\d+)\.1\.layers\.(\d+)\.(.+)", name):
        return f"stages.{match[1]}.{int(match[2]) + 1}.{_renamed(match[3], _CVT)}"
    return name


def _vit(name: str) -> str:
    return f"network.{name}"


def _resnet(name: str) -> str:
    """torchvision's network in two wrappers."""
    return "network." + re.sub(r"^(backbone\.)+", "", name)


def _renamed(name: str, table: Mapping[str, str]) -> str:
    for theirs, ours in table.items():
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return name


@dataclass(frozen=True)
class Family:
    """A kind of backbone in the authors' code.

    Attributes:
        name: As users call it.
        mark: A pattern of a name that every checkpoint of it has, and none of another family.
        our_name: Of a tensor of the backbone, from its name there.
        flat: How our names of those tensors end that are convolutions of one pixel there.
    """

    name: str
    mark: str
    our_name: Callable[[str], str]
    flat: tuple[str, ...] = ()


FAMILIES = (
    Family("Swin", r"layers\.0\.blocks\.0\.attn\.relative_position_bias_table", _swin),
    Family("ViL", r"layer1\.1\.attn\.(query|qkv)\.weight", _vil),
    Family(
        "CvT",
        r"stage0\.1\.layers\.0\.0\.fn\.qkv\.pw\.weight",
        _cvt,
        (".attn.qkv.weight", ".attn.proj.weight", ".mlp.0.weight", ".mlp.2.weight"),
    ),
    Family("DeiT or ViT", r"blocks\.0\.attn\.qkv\.weight", _vit),
    Family("ResNet", r"(backbone\.)*layer1\.0\.conv1\.weight", _resnet),
)


def family_of(state: State) -> Family | None:
    """The family that a network belongs to, by its names without `module.`; None for none that is known."""
    return next((one for one in FAMILIES if any(re.fullmatch(one.mark, name) for name in state)), None)


def our_name(name: str, family: Family) -> str:
    """The name that `Network` gives to a tensor of theirs, or to what it is a part of."""
    for theirs, ours in _HEADS.items():
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return "backbone." + family.our_name(name)


def translated(state: State, family: Family) -> dict[str, Tensor]:
    """Tensors by our names, in our shapes. ViL's queries come before its keys and values."""
    parts: dict[str, list[Tensor]] = {}
    for name in sorted(state, key=lambda name: ".attn.kv." in name):
        ours, tensor = our_name(name, family), state[name]
        is_flat = tensor.shape[2:] == (1, 1) and ours.endswith(family.flat)
        parts.setdefault(ours, []).append(tensor.flatten(1) if is_flat else tensor)
    return {name: torch.cat(part) if len(part) > 1 else part[0] for name, part in parts.items()}
