"""Resize a window of an image with PIL: for "reference", and for "cpu" where the edges are fractional."""

from PIL import Image, ImageOps

from pipeline.augment.crop_plan import CropPlan, Interpolation

_FILTERS: dict[Interpolation, Image.Resampling] = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
}


def draw_window(image: Image.Image, plan: CropPlan, v: int, b: int) -> Image.Image:
    """View `v` of sample `b` before colour changes: the window of `image`, resized, and flipped if the plan says so."""
    top, left, height, width = (array[v, b].item() for array in (plan.top, plan.left, plan.height, plan.width))
    box = (left, top, left + width, top + height)
    rows, columns = plan.sizes[v]
    if plan.cut:
        view = image.crop(box).resize((columns, rows), _FILTERS[plan.interpolation])
    else:
        view = image.resize((columns, rows), _FILTERS[plan.interpolation], box=box)
    return ImageOps.mirror(view) if plan.flip[v, b] else view
