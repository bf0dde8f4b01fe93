"""`torch.compile` for a backbone, in place: parameter names stay, and hooks and DDP see the same module."""

import os
import shutil

import torch

from esvit.models.backbone import Backbone
from pipeline.errors import UserError


def compile_backbone(backbone: Backbone, backend: str = "inductor") -> None:
    """Compile the forward of `backbone`, separately per image size, and with and without gradients.

    The first steps take minutes. The backbone is compiled as a whole: each block of a student has its own drop path
    rate, so each block would need its own compilation, and torch gives up on a function after eight.

    Raises:
        UserError: there is no C++ compiler.
    """
    compiler = os.environ.get("CXX", "g++")
    if not shutil.which(compiler):
        raise UserError(
            f"model.compile needs the C++ compiler '{compiler}', which is not installed; install g++ or set CXX"
        )
    backbone.forward = torch.compile(backbone.forward, backend=backend, dynamic=False)  # type: ignore[method-assign]
