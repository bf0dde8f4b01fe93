"""A trained backbone for other programs: a folder that `timm.create_model("local-dir:FOLDER")` opens.

    model.safetensors   the backbone's parameters, under timm's names
    config.json         timm's own model description, and where the weights come from

The shape of `config.json` is that of timm 1.0 (`timm.models._hub`), as on the Hugging Face hub. It cannot carry the
eps of the LayerNorms, 1e-6 here and 1e-5 in timm, which moves features by about 1e-4; for exactly ours add
`norm_layer=functools.partial(torch.nn.LayerNorm, eps=1e-6)` to the call.
"""

import json
from collections.abc import Sequence
from typing import Any

import safetensors.torch

from esvit.checkpoints.source import model_config
from esvit.models.swin import SwinArchitecture
from pipeline.augment.executor import IMAGENET_MEAN, IMAGENET_STD
from pipeline.errors import UserError
from pipeline.store import Store


class ExportError(UserError):
    """The network has no counterpart in timm."""


def export(saved: dict[str, Any], network: str, store: Store, allow_import: Sequence[str] = ()) -> list[str]:
    """Write the backbone of a checkpoint's "teacher" or "student" into `store`; returns the names of the files.

    At the image size that the windows were made for, timm's outputs are ours, but for the eps above. At sizes whose
    maps do not consist of whole windows they differ: timm rolls a map before it pads it, EsViT after
    (`esvit.models.swin`).

    Raises:
        ExportError: the backbone is no Swin.
        StoreError: the store cannot be written.
    """
    model = model_config(saved, allow_import)
    architecture = model.backbone.architecture
    if not isinstance(architecture, SwinArchitecture):
        raise ExportError(f"timm has no counterpart of {model.backbone.name}; only Swin backbones can be exported")
    prefix = "backbone."
    tensors = {
        name.removeprefix(prefix): tensor.contiguous()
        for name, tensor in saved[network].items()
        if name.startswith(prefix)
    }
    config = timm_config(architecture)
    config["esvit"] = {"backbone": model.backbone.name, "network": network, "step": saved["step"]}
    files = {
        "model.safetensors": safetensors.torch.save(tensors, metadata={"format": "pt"}),
        "config.json": (json.dumps(config, indent=2) + "\n").encode(),
    }
    for name, content in files.items():
        store.put(name, content)
    return list(files)


def timm_config(architecture: SwinArchitecture) -> dict[str, Any]:
    """What timm needs to know to build this Swin without a classifier."""
    size = architecture.image_size
    return {
        "architecture": "swin_tiny_patch4_window7_224",  # the builder; every dimension is given below
        "num_classes": 0,
        "num_features": architecture.widths[-1],
        "global_pool": "avg",
        "model_args": {
            "img_size": size,
            "patch_size": architecture.patch_size,
            "window_size": architecture.window_size,
            "embed_dim": architecture.embed_dim,
            "depths": list(architecture.depths),
            "num_heads": list(architecture.num_heads),
        },
        "pretrained_cfg": {
            "input_size": [3, size, size],
            "fixed_input_size": True,
            "interpolation": "bicubic",
            "crop_pct": 224 / 256,
            "mean": list(IMAGENET_MEAN),
            "std": list(IMAGENET_STD),
            "num_classes": 0,
            "first_conv": "patch_embed.proj",
            "classifier": "head.fc",
        },
    }
