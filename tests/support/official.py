"""Checkpoints of miniature networks in the format of EsViT's authors; written independently of the importer."""

import argparse
import re
from typing import Any

import torch
from torch import Tensor

from esvit.models import BackboneConfig
from esvit.models.cvt import CvtArchitecture
from esvit.models.head import HeadConfig
from esvit.models.student_teacher import ModelConfig, Network
from esvit.models.swin import SwinArchitecture
from esvit.models.timm_backbone import TimmArchitecture
from esvit.models.vil import VilArchitecture
from esvit.models.vit import VitArchitecture

HEAD = HeadConfig(num_prototypes=6, hidden=8, bottleneck=4)
# Rows beside the published ones, as the importer finds a network by its sizes.
ROWS: dict[str, Any] = {
    "vil_mini": VilArchitecture((12, 12, 24, 24), (1, 2, 2, 1), (3, 3, 6, 6), 0.0, window_size=2, image_size=64),
    "cvt_mini": CvtArchitecture((8, 24, 48, 48), (1, 2, 1, 1), (1, 3, 6, 6), 0.0),
    "deit_mini": VitArchitecture("deit_tiny_patch16_224", options={"embed_dim": 24, "depth": 2, "num_heads": 3}),
    "resnet_mini": TimmArchitecture("resnet50", options={"layers": (1, 1, 1, 1), "channels": (4, 4, 8, 8)}),
    "swin_mini": SwinArchitecture(8, (1, 2), (2, 2), 0.0, window_size=4, image_size=32),
}
# Of the first block, as the authors' code names them: models/*.py and layers/longformer2d.py of its release.
NAMES = {
    "vil_mini": """layer1.0.proj.weight layer1.0.proj.bias layer1.0.norm_embed.weight layer1.0.cls_token
        layer1.1.norm.weight layer1.1.attn.query.weight layer1.1.attn.kv.bias layer1.1.attn.proj.weight
        layer1.1.attn.query_global.weight layer1.1.attn.kv_global.weight layer1.1.attn.proj_global.bias
        layer1.1.attn.local_relative_position_bias_table layer1.1.attn.g2l_relative_position_bias
        layer1.1.attn.g2g_relative_position_bias layer1.1.attn.relative_position_index layer1.2.norm.bias
        layer1.2.mlp.fc1.weight layer1.2.mlp.fc2.bias layer2.3.attn.kv.weight layer2.4.mlp.fc1.weight
        layer3.1.attn.qkv.weight layer4.2.mlp.fc2.weight norm.weight head.mlp.0.weight head.last_layer.weight_v
        head_dense.last_layer.weight_g""",
    "cvt_mini": """stage0.0.proj.weight stage0.0.norm.bias stage0.1.layers.0.0.norm.weight
        stage0.1.layers.0.0.fn.qkv.dw.weight stage0.1.layers.0.0.fn.qkv.bn.weight
        stage0.1.layers.0.0.fn.qkv.bn.running_var stage0.1.layers.0.0.fn.qkv.bn.num_batches_tracked
        stage0.1.layers.0.0.fn.qkv.pw.weight stage0.1.layers.0.0.fn.qkv.pw.bias stage0.1.layers.0.0.fn.proj_out.weight
        stage0.1.layers.0.1.norm.weight stage0.1.layers.0.1.fn.net.0.weight stage0.1.layers.0.1.fn.net.2.bias
        stage1.1.layers.1.0.fn.qkv.pw.weight norm.weight head.mlp.4.bias""",
    "deit_mini": """cls_token pos_embed patch_embed.proj.weight blocks.0.norm1.weight blocks.0.attn.qkv.weight
        blocks.0.attn.proj.bias blocks.1.norm2.bias blocks.1.mlp.fc1.weight blocks.1.mlp.fc2.weight norm.weight
        head.mlp.2.weight head_dense.mlp.0.bias""",
    "resnet_mini": """backbone.backbone.conv1.weight backbone.backbone.bn1.running_mean
        backbone.backbone.layer1.0.conv3.weight backbone.backbone.layer1.0.bn3.weight
        backbone.backbone.layer1.0.downsample.0.weight backbone.backbone.layer1.0.downsample.1.num_batches_tracked
        backbone.backbone.layer4.0.conv2.weight head.mlp.0.weight""",
}
Named = dict[str, Tensor]


def their_vil(name: str, tensor: Tensor) -> Named:
    """ViL: the authors' tensors that correspond to one of ours."""
    match = re.fullmatch(r"stages\.(\d)\.(?:blocks\.(\d)\.)?(.+)", name)
    if not match:
        return {name: tensor}
    stage, block, rest = int(match[1]), match[2], match[3]
    layer = f"layer{stage + 1}"
    if block is None:
        return {f"{layer}.0.{rest.replace('norm.', 'norm_embed.').replace('global_tokens', 'cls_token')}": tensor}
    attention, mlp = f"{layer}.{2 * int(block) + 1}.", f"{layer}.{2 * int(block) + 2}."
    if rest.startswith(("norm2.", "mlp.")):
        return {mlp + rest.replace("norm2.", "norm."): tensor}
    if rest.startswith("attn.qkv.") and stage < 2:  # attends to neighbourhoods
        kind, third = rest.removeprefix("attn.qkv."), len(tensor) // 3
        parts = {"query": tensor[:third], "kv": tensor[third:]}
        return {f"{attention}attn.{part}{twice}.{kind}": t for part, t in parts.items() for twice in ("", "_global")}
    if rest.startswith("attn.proj.") and stage < 2:
        return {attention + rest: tensor, attention + rest.replace("proj.", "proj_global."): tensor}
    tables = {"local_bias": "local_relative_position_bias_table", "mixed_bias": "g2l_relative_position_bias"}
    tables["global_bias"] = "g2g_relative_position_bias"
    for ours, theirs in tables.items():
        rest = rest.replace(ours, theirs)
    found = {attention + rest.replace("norm1.", "norm."): tensor}
    if rest.endswith("bias_table"):
        found[f"{attention}attn.relative_position_index"] = torch.zeros(4, 36, dtype=torch.long)
    return found


def their_cvt(name: str, tensor: Tensor) -> Named:
    """CvT: see `their_vil`."""
    match = re.fullmatch(r"stages\.(\d)\.(\d)\.(.+)", name)
    if not match:
        return {name: tensor}
    stage, place, rest = match[1], int(match[2]), match[3]
    if place == 0:
        return {f"stage{stage}.0.{rest}": tensor}
    kinds = {
        "norm1.": "0.norm.",
        "norm2.": "1.norm.",
        "attn.depthwise.": "0.fn.qkv.dw.",
        "attn.norm.": "0.fn.qkv.bn.",
        "attn.qkv.": "0.fn.qkv.pw.",
        "attn.proj.": "0.fn.proj_out.",
        "mlp.0.": "1.fn.net.0.",
        "mlp.2.": "1.fn.net.2.",
        "attn.relative_position_bias_table": "0.fn.rel_pos_bias_table",
    }
    ours = next(kind for kind in kinds if rest.startswith(kind))
    is_convolution = ours in ("attn.qkv.", "attn.proj.", "mlp.0.", "mlp.2.") and tensor.ndim == 2
    tensor = tensor[..., None, None] if is_convolution else tensor
    found = {f"stage{stage}.1.layers.{place - 1}.{kinds[ours]}{rest.removeprefix(ours)}": tensor}
    if ours.endswith("table"):
        found[f"stage{stage}.1.layers.{place - 1}.0.fn.rel_pos_idx"] = torch.zeros(2, 2, dtype=torch.long)
    return found


def their_swin(name: str, tensor: Tensor) -> Named:
    """Swin: see `their_vil`."""
    return {re.sub(r"layers\.(\d)\.downsample", lambda m: f"layers.{int(m[1]) - 1}.downsample", name): tensor}


def their_state(network: Network, name: str) -> Named:
    """The tensors of a network with the names and shapes of the authors' code."""
    state: Named = {}
    for key, tensor in network.state_dict().items():
        first, rest = key.split(".", 1)
        if first != "backbone":
            state[{"view_head": "head.", "region_head": "head_dense."}[first] + rest] = tensor
        elif name.startswith("vil"):
            state |= their_vil(rest, tensor)
        elif name.startswith("cvt"):
            state |= their_cvt(rest, tensor)
        elif name.startswith("swin"):
            state |= their_swin(rest, tensor)
        else:
            state[rest.replace("network.", "backbone.backbone." if "resnet" in name else "")] = tensor
    return state


def trained(state: Named) -> list[str]:
    """The parameters in the order in which the authors' optimiser counts them."""
    names = [n for n in state if not re.search("_global|running|tracked|index|rel_pos_idx", n)]
    exempt = [n for n in names if n.endswith(".bias") or state[n].ndim == 1]
    return [n for n in names if n not in exempt] + exempt


def make(name: str, **changes: Any) -> Network:
    """A network without zero tensors, so that a lost tensor shows."""
    torch.manual_seed(0)
    model = ModelConfig(backbone=BackboneConfig(name=name, **changes), head=HEAD)
    network = Network(model, drop_path=False, with_regions=True).eval()
    for key, tensor in network.state_dict().items():
        if tensor.is_floating_point() and not key.endswith("running_var"):
            torch.nn.init.normal_(tensor, std=0.1)  # nothing starts at zero, so nothing can be lost unseen
    return network


def whole(network: Network, name: str) -> dict[str, Any]:
    """A full checkpoint; every parameter has different optimiser moments."""
    state = their_state(network, name)
    order = trained(state)
    generator = torch.Generator().manual_seed(1)
    moments = {
        i: {
            "step": torch.tensor(7.0),
            "exp_avg": torch.randn(state[n].shape, generator=generator),
            "exp_avg_sq": torch.rand(state[n].shape, generator=generator),
        }
        for i, n in enumerate(order)
    }
    split = len([n for n in order if not n.endswith(".bias") and state[n].ndim > 1])
    return {
        "student": {f"module.{n}": t for n, t in state.items()},
        "teacher": state,
        "optimizer": {
            "state": moments,
            "param_groups": [{"params": list(range(split))}, {"params": list(range(split, len(order)))}],
        },
        "epoch": 200,
        "args": argparse.Namespace(arch="x", norm_last_layer=False),
        "dino_loss": {"center": torch.ones(1, 6), "center_grid": torch.ones(1, 6)},
        "fp16_scaler": {"scale": 1.0},
    }
