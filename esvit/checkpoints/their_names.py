"""The authors' names of a network's tensors, translated to our names.

Most tensors are only renamed. Two kinds change shape: ViL's queries, keys and values are one layer here and two in the
authors' code; CvT's 1 x 1 convolutions are linear layers here.
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
    """In the authors' code, the downsampling before a stage belongs to the stage before."""
    return re.sub(r"^layers\.(\d+)\.downsample", lambda match: f"layers.{int(match[1]) + 1}.downsample", name)


def _vil(name: str) -> str:
    """A stage is an embedding, then the attention and the MLP of each block in turn."""
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
        name: The name that users know.
        mark: Pattern of a tensor name that all checkpoints of this family have, and no other family has.
        our_name: Translates the authors' name of a backbone tensor to ours.
        flat: Endings of our names whose tensors are 1 x 1 convolutions in the authors' code.
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
    """The family of a network, by its tensor names without `module.`; None for an unknown family."""
    return next((one for one in FAMILIES if any(re.fullmatch(one.mark, name) for name in state)), None)


def our_name(name: str, family: Family) -> str:
    """The name in `Network` of an authors' tensor, or of the tensor that it is a part of."""
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
