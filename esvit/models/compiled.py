"""`torch.compile` for a backbone, in place: parameters keep their names, and hooks and DDP see the module as it was."""

import os
import shutil

import torch

from esvit.models.backbone import Backbone
from pipeline.errors import UserError


def compile_backbone(backbone: Backbone, backend: str = "inductor") -> None:
    """Compile the forward of `backbone`: anew for every size of image, and with and without gradients.

    The first steps take minutes. Whole, and not block by block: no two blocks of a student drop paths at the same
    rate, so each would be compiled on its own, and torch gives up on a function after eight.

    Raises:
        UserError: there is no C++ compiler.
    """
    compiler = os.environ.get("CXX", "g++")
    if not shutil.which(compiler):
        raise UserError(
            f"model.compile needs the C++ compiler '{compiler}', which is not installed; install g++ or set CXX"
        )
    backbone.forward = torch.compile(backbone.forward, backend=backend, dynamic=False)  # type: ignore[method-assign]
