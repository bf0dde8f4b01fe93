"""Augmentations by name."""

from pipeline.augment.colour import ColourJitter
from pipeline.augment.crop_plan import Planner
from pipeline.augment.plan import CenterCrop, CenterCropConfig, MultiCrop, MultiCropConfig, ViewGroup

Recipe = MultiCropConfig | CenterCropConfig

_NO_COLOUR = ColourJitter(probability=0.0)

RECIPES: dict[str, Recipe] = {
    # Pre-training: two global and eight local views (EsViT, section 4; the augmentation of DINO).
    "dino": MultiCropConfig(),
    # Training of a linear probe: torchvision's default RandomResizedCrop(224), and a flip.
    "linear": MultiCropConfig(
        views=(ViewGroup(size=(224, 224), count=1, area=(0.08, 1.0)),),
        jitter=_NO_COLOUR,
        grayscale=0.0,
        interpolation="bilinear",
    ),
    # Supervised training from scratch: DeiT's crop and colour jitter, without RandAugment and erasing.
    "deit": MultiCropConfig(
        views=(ViewGroup(size=(224, 224), count=1, area=(0.08, 1.0)),),
        jitter=ColourJitter(probability=1.0, brightness=0.3, contrast=0.3, saturation=0.3, hue=0.0),
        grayscale=0.0,
    ),
    # Evaluation: resize the shorter side to 256, cut out the centre 224.
    "eval": CenterCropConfig(),
}


def build_planner(recipe: Recipe, seed: int) -> Planner:
    """The planner of a recipe. A recipe without random views does not use the seed."""
    return CenterCrop(recipe) if isinstance(recipe, CenterCropConfig) else MultiCrop(recipe, seed)
