"""A size that a network cannot take is refused in a sentence, before any image is read."""

import pytest
import torch

from esvit.models import BackboneConfig, build_backbone
from esvit.models.sizes import ImageSizeError, check_image_size

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", ["swin_nano", "vil_2262"])
def test_what_a_network_refuses_is_named_with_its_flag(name: str) -> None:
    backbone = build_backbone(BackboneConfig(name=name), drop_path=False).eval()
    check_image_size(backbone, 32, CPU, "--size 32")
    with pytest.raises(ImageSizeError, match=r"^--size 3: the network cannot take images of 3 x 3 pixels: .+"):
        check_image_size(backbone, 3, CPU, "--size 3")
