"""A trained backbone for other programs: a folder that `timm.create_model("local-dir:FOLDER")` opens.

    model.safetensors   the backbone's parameters, under timm's names
    config.json         timm's own model description, and where the weights come from

`config.json` has the layout of timm 1.0 (`timm.models._hub`), as on the Hugging Face hub. That layout has no field for
the eps of the LayerNorms: 1e-6 here, 1e-5 in timm. The difference moves features by about 1e-4. For our exact features,
add `norm_layer=functools.partial(torch.nn.LayerNorm, eps=1e-6)` to the call.
"""

import json
from collections.abc import Sequence
from typing import Any

import safetensors.torch
import timm

from esvit.checkpoints.source import backbone_of
from esvit.models import BackboneConfig
from esvit.models.swin import SwinArchitecture
from esvit.models.timm_backbone import TimmArchitecture
from pipeline.augment.executor import IMAGENET_MEAN, IMAGENET_STD
from pipeline.errors import UserError
from pipeline.store import Store

# The evaluation view, and the mean and deviation of the executors.
_VIEW: dict[str, Any] = {
    "interpolation": "bicubic",
    "crop_pct": 224 / 256,
    "mean": list(IMAGENET_MEAN),
    "std": list(IMAGENET_STD),
}


class ExportError(UserError):
    """The network has no counterpart in timm."""


def export(saved: dict[str, Any], network: str, store: Store, allow_import: Sequence[str] = ()) -> list[str]:
    """Write the backbone of a checkpoint's "teacher" or "student" into `store`; return the names of the files.

    At the construction size of a network, timm's outputs equal ours, except for the eps above. At other sizes the
    outputs differ: for Swin where a map is not a multiple of the window, for DeiT and ViT by the resized positions
    (docs/backbones.md).

    Raises:
        ExportError: timm cannot build the backbone.
        CheckpointError: the checkpoint does not have that network.
        StoreError: the store cannot be written.
    """
    backbone, state = backbone_of(saved, network, allow_import)
    prefix, config = _counterpart(backbone)
    tensors = {name.removeprefix(prefix): tensor.contiguous() for name, tensor in state.items()}
    config["esvit"] = {"backbone": backbone.name, "network": network, "step": saved["step"]}
    files = {
        "model.safetensors": safetensors.torch.save(tensors, metadata={"format": "pt"}),
        "config.json": (json.dumps(config, indent=2) + "\n").encode(),
    }
    for name, content in files.items():
        store.put(name, content)
    return list(files)


def _counterpart(backbone: BackboneConfig) -> tuple[str, dict[str, Any]]:
    """The prefix of our names before timm's names, and timm's config of the network."""
    architecture = backbone.architecture
    if isinstance(architecture, TimmArchitecture):
        return "network.", _own_config(architecture)
    if not isinstance(architecture, SwinArchitecture):
        raise ExportError(
            f"timm has no counterpart of {backbone.name}; only Swin and timm's own networks can be exported"
        )
    if architecture.absolute_positions:
        raise ExportError("timm has no Swin with absolute_positions; only one without them can be exported")
    return "", timm_config(architecture)


def _own_config(architecture: TimmArchitecture) -> dict[str, Any]:
    """timm's own description of one of its networks, without a classifier."""
    known = timm.get_pretrained_cfg(architecture.model).to_dict()
    kept = ("input_size", "fixed_input_size", "first_conv", "classifier")
    return {
        "architecture": architecture.model,
        "num_classes": 0,
        "model_args": architecture.options,
        "pretrained_cfg": {**_VIEW, "num_classes": 0, **{name: known[name] for name in kept if name in known}},
    }


def timm_config(architecture: SwinArchitecture) -> dict[str, Any]:
    """timm's config of this Swin, without a classifier."""
    size, windows = architecture.image_size, architecture.window_size
    return {
        "architecture": "swin_tiny_patch4_window7_224",  # the builder; every dimension is given below
        "num_classes": 0,
        "num_features": architecture.widths[-1],
        "global_pool": "avg",
        "model_args": {
            "img_size": size,
            "patch_size": architecture.patch_size,
            "window_size": windows if isinstance(windows, int) else [[window, window] for window in windows],
            "embed_dim": architecture.embed_dim,
            "depths": list(architecture.depths),
            "num_heads": list(architecture.num_heads),
            "mlp_ratio": architecture.mlp_ratio,
        },
        "pretrained_cfg": {
            **_VIEW,
            "input_size": [3, size, size],
            "fixed_input_size": True,
            "num_classes": 0,
            "first_conv": "patch_embed.proj",
            "classifier": "head.fc",
        },
    }
