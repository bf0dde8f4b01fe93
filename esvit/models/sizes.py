"""Check by trying whether a network takes an image size: each network has its own rules."""

import torch

from esvit.models.backbone import Backbone
from pipeline.errors import UserError


class ImageSizeError(UserError):
    """The network cannot take images of this size."""


@torch.inference_mode()
def check_image_size(backbone: Backbone, side: int, device: torch.device, flag: str) -> None:
    """Run the network on `device`, in evaluation mode, on one blank image of `side` x `side` pixels.

    Raises:
        ImageSizeError: the network refuses the image; the message names `flag`.
    """
    try:
        backbone(torch.zeros(1, 3, side, side, device=device))
    except (RuntimeError, ValueError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise ImageSizeError(f"{flag}: the network cannot take images of {side} x {side} pixels: {reason}") from None
