"""The executors of the plan: near the reference, equal to themselves, and calm about broken files."""

import dataclasses
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
import simplejpeg
import torch
from PIL import Image

from pipeline.augment import EXECUTORS, BadImages, CropPlan, Executor, MultiCrop, MultiCropConfig, build_executor
from pipeline.augment.blur import blur_kernels
from pipeline.augment.colour import ColourJitter
from pipeline.augment.decode import decode, decode_with_pil
from pipeline.augment.plan import ViewGroup
from pipeline.errors import UserError
from support.photographs import assert_near, batches, compare
from support.shards import HEIGHT, WIDTH, encode, jpegs, picture

CPU = torch.device("cpu")
VIEWS = (
    ViewGroup(size=(40, 56), count=2, area=(0.4, 1.0), blur=(1.0, 0.5), solarize=(0.0, 0.5)),
    ViewGroup(size=24, count=3, area=(0.1, 0.4), blur=0.5),
)


def plan_for(ids: list[int], height: int = HEIGHT, width: int = WIDTH) -> CropPlan:
    """Five views of each sample, every operation among them."""
    planner = MultiCrop(MultiCropConfig(views=VIEWS), seed=4)
    return planner(0, np.array(ids), np.full(len(ids), height), np.full(len(ids), width))


@pytest.fixture(params=EXECUTORS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def executor(name: str) -> Iterator[Executor]:
    executor = build_executor(name, 2, CPU)
    yield executor
    executor.close()


def test_views_are_stacked_by_size_and_channels_last(executor: Executor) -> None:
    groups = executor(jpegs(3), plan_for([0, 1, 2]))
    assert [tuple(group.shape) for group in groups] == [(2, 3, 3, 40, 56), (3, 3, 3, 24, 24)]
    for group in groups:
        assert group.dtype == torch.float32 and group.isfinite().all()
        assert group.flatten(0, 1).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    "views",
    [
        (ViewGroup(size=32, count=2, area=(0.4, 1.0), blur=(1.0, 0.1)),),
        (ViewGroup(size=32, count=1, area=(0.4, 1.0)),),
        (
            ViewGroup(size=(24, 40), count=2, area=(0.4, 1.0)),
            ViewGroup(size=16, count=3, area=(0.1, 0.4), blur=0.5),
            ViewGroup(size=(8, 12), count=2, area=(0.05, 0.1), solarize=0.5),
        ),
    ],
    ids=["no locals", "one view", "rectangles and two local sizes"],
)
def test_any_number_of_groups(executor: Executor, views: tuple[ViewGroup, ...]) -> None:
    planner = MultiCrop(MultiCropConfig(views=views), seed=1)
    plan = planner(0, np.arange(3), np.full(3, HEIGHT), np.full(3, WIDTH))
    reference = build_executor("reference", 1, CPU)
    groups, expected = executor(jpegs(3), plan), reference(jpegs(3), plan)
    assert [tuple(group.shape) for group in groups] == [(view.count, 3, 3, *view.size) for view in views]
    for group, other in zip(groups, expected, strict=True):
        assert (group - other).abs().mean() < 0.03  # 1.7 of 255
    reference.close()


def test_views_that_are_kept_are_not_written_again(executor: Executor) -> None:
    plan = plan_for([0, 1, 2])
    kept = [executor(jpegs(3, first_seed=seed), plan) for seed in range(4)]
    again = [executor(jpegs(3, first_seed=seed), plan) for seed in range(4)]
    for groups, others in zip(kept, again, strict=True):
        for group, other in zip(groups, others, strict=True):
            torch.testing.assert_close(group, other, rtol=0, atol=0)


def test_a_view_does_not_depend_on_batch_or_threads(name: str) -> None:
    images = jpegs(7)
    together, apart = build_executor(name, 4, CPU), build_executor(name, 1, CPU)
    groups = together(images, plan_for(list(range(7))))
    for b, image in enumerate(images):
        for group, alone in zip(groups, apart([image], plan_for([b])), strict=True):
            torch.testing.assert_close(group[:, b : b + 1], alone, rtol=0, atol=0)
    together.close()
    apart.close()


@pytest.mark.parametrize("num_images", [24, pytest.param(600, marks=[pytest.mark.slow, pytest.mark.acceptance])])
def test_photographs_look_the_same_everywhere(imagenet_sample: Path, num_images: int) -> None:
    executors = {name: build_executor(name, 2, CPU) for name in ("cpu", "dali")}
    for parity in compare(executors, batches(imagenet_sample, num_images)).values():
        assert parity.view_means().shape == (10, num_images)
        assert_near(parity)
    for executor in executors.values():
        executor.close()


def sixteen_bit(image: Image.Image) -> bytes:
    pixels = np.atleast_3d(np.asarray(image)).astype(np.uint16) * 257
    return bytes(cv2.imencode(".png", pixels[..., ::-1])[1])


def rotated(orientation: int = 6) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(picture(0), exif=exif)


def grainy_jpeg() -> bytes:
    return encode(Image.fromarray(np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)))


FILES: dict[str, Callable[[], bytes]] = {
    "jpeg": lambda: encode(picture(0)),
    "jpeg 4:4:4": lambda: encode(picture(0), subsampling=0),
    "progressive": lambda: encode(picture(0), progressive=True),
    "grayscale": lambda: encode(picture(0).convert("L")),
    "cmyk": lambda: encode(picture(0).convert("CMYK")),
    "rotated by exif": rotated,
    "trailing bytes": lambda: encode(picture(0)) + b"trailer",
    "png": lambda: encode(picture(0), "PNG"),
    "palette png": lambda: encode(picture(0).convert("P"), "PNG"),
    "png with alpha": lambda: encode(picture(0).convert("RGBA"), "PNG"),
    "16-bit png": lambda: sixteen_bit(picture(0)),
    "16-bit grayscale png": lambda: sixteen_bit(picture(0).convert("L")),
    "webp": lambda: encode(picture(0), "WEBP"),
}


@pytest.mark.parametrize("kind", FILES)
def test_cpu_decodes_what_pil_decodes_bit_by_bit(kind: str) -> None:
    encoded = FILES[kind]()
    pixels = decode(encoded)
    assert pixels.shape == (HEIGHT, WIDTH, 3)
    np.testing.assert_array_equal(pixels, np.asarray(decode_with_pil(encoded)))


@pytest.mark.parametrize("kind", FILES)
def test_every_executor_reads_every_kind_of_file(executor: Executor, kind: str) -> None:
    reference = build_executor("reference", 1, CPU)
    images, plan = [FILES[kind]()], plan_for([7])
    for group, expected in zip(executor(images, plan), reference(images, plan), strict=True):
        assert (group - expected).abs().mean() < 0.03  # 1.7 of 255
    reference.close()


def test_sixteen_bits_become_eight() -> None:
    for image in (picture(0), picture(0).convert("L")):
        np.testing.assert_array_equal(decode(sixteen_bit(image)), np.asarray(image.convert("RGB")))


def test_damage_that_pil_accepts_is_accepted() -> None:
    damaged = bytearray(grainy_jpeg())
    damaged[len(damaged) // 2] ^= 0xFF
    with pytest.raises(ValueError, match="Corrupt JPEG data"):
        simplejpeg.decode_jpeg(bytes(damaged))
    np.testing.assert_array_equal(decode(bytes(damaged)), np.asarray(decode_with_pil(bytes(damaged))))


def test_broken_files_are_named_and_the_executor_works_on(executor: Executor) -> None:
    good = jpegs(2)
    plan = plan_for([0, 1])
    before = executor(good, plan)
    truncated, png = good[0][: len(good[0]) // 2], encode(picture(0), "PNG")
    broken = [truncated, b"", b"no image at all", b"\xff\xd8\xff" + bytes(50), png[:-100], good[0][:20]]
    for images in ([good[0], *broken, good[1]], broken[:1]):
        with pytest.raises(BadImages) as error:
            executor(images, plan_for(list(range(len(images)))))
        assert error.value.reasons.keys() == {b for b, image in enumerate(images) if image not in good}
        assert all(error.value.reasons.values())
    for group, again in zip(before, executor(good, plan), strict=True):
        torch.testing.assert_close(group, again, rtol=0, atol=0)


def test_torch_keeps_its_threads() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    build_executor("cpu", 2, CPU).close()
    try:
        with ThreadPoolExecutor(1) as new_thread:  # as those of autograd: they start with torch's global setting
            assert torch.get_num_threads() == new_thread.submit(torch.get_num_threads).result() == 3
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("sigma", [0.15, 0.3, 0.6, 1.0, 2.0])
def test_a_blur_is_as_wide_as_the_plan_says(executor: Executor, sigma: float) -> None:
    # The spread of a single bright pixel; 8-bit rounding of the tails is what the tolerance is for.
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    pixels[24, 32] = 255
    ids, heights, widths = np.array([0]), np.array([HEIGHT]), np.array([WIDTH])
    views = ViewGroup(size=(HEIGHT, WIDTH), count=1, area=(1, 1), blur=1)
    config = MultiCropConfig(
        views=(views,), jitter=ColourJitter(probability=0), grayscale=0, flip=0, blur_sigma=(sigma, sigma)
    )
    plan = MultiCrop(config, seed=0)(0, ids, heights, widths)
    whole = dataclasses.replace(plan, top=0 * ids[None], left=0 * ids[None], height=heights[None], width=widths[None])
    (group,) = executor([encode(Image.fromarray(pixels), "PNG")], whole)
    light = group[0, 0, 0].double() - group.min()
    row = light.sum(dim=0) / light.sum()
    variance = (row * (torch.arange(WIDTH) - 32) ** 2).sum()
    assert variance == pytest.approx(sigma**2, abs=0.02, rel=0.2)


@pytest.mark.parametrize("sigma", [0.1, 0.3, 0.6, 1.0, 2.0])
def test_the_blur_kernel_has_the_variance_asked_for(sigma: float) -> None:
    kernel = blur_kernels(np.array([sigma], np.float32))[0]
    places = np.arange(len(kernel)) - len(kernel) // 2
    assert kernel.sum() == pytest.approx(1, abs=1e-6)
    assert (kernel * places**2).sum() == pytest.approx(sigma**2, rel=1e-4)


def test_kernels_of_a_plan_are_centred_in_zeros() -> None:
    table = blur_kernels(np.array([[0.0, 0.4], [2.0, 1.0]], np.float32))
    assert table.shape == (2, 2, 13) and not table[0, 0].any()
    np.testing.assert_array_equal(table[1, 0], blur_kernels(np.array([2.0], np.float32))[0])
    np.testing.assert_array_equal(table[0, 1, 3:10], blur_kernels(np.array([0.4], np.float32))[0])
    np.testing.assert_array_equal(table, table[..., ::-1])


def test_an_unknown_executor_is_refused() -> None:
    with pytest.raises(UserError, match="unknown executor 'gpu'; choose one of reference, cpu, dali"):
        build_executor("gpu", 1, CPU)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_missing_gpu_is_one_sentence() -> None:
    with pytest.raises(UserError, match="the dali executor finds no CUDA device on this machine"):
        build_executor("dali", 1, torch.device("cuda"))


def dali_operators(device: str, turns_upright: bool = True) -> list[str]:
    """The operators of the graph, each with its device, its arguments and what feeds it, as DALI spells them."""
    from pipeline.augment.dali import multi_crop_graph

    graph = multi_crop_graph(
        ((224, 224), (96, 96)),
        device,
        turns_upright=turns_upright,
        batch_size=2,
        num_threads=1,
        device_id=0 if device == "gpu" else None,
        prefetch_queue_depth=1,
    )
    graph._build_graph()  # in Python only: a pipeline with a device cannot be built without one
    lines = ([line for line in str(op.spec).splitlines() if "_origin_" not in line] for op in graph._ops)
    return ["\n".join(spec) for spec in lines]


@pytest.mark.parametrize("turns_upright", [False, True])
def test_the_gpu_graph_is_the_cpu_graph_on_another_device(turns_upright: bool) -> None:
    on_gpu, on_cpu = dali_operators("gpu", turns_upright), dali_operators("cpu", turns_upright)
    assert on_gpu != on_cpu
    assert [re.sub(r"(gpu|mixed)\b", "cpu", operator) for operator in on_gpu] == on_cpu


def test_every_dali_operator_exists_for_the_gpu() -> None:
    from nvidia.dali import backend, ops  # its stubs lack what lists the operators

    used = {
        (re.search(r"device: (\w+)", operator)[1], re.match(r"OpSpec for (\w+):", operator)[1])  # type: ignore[index]
        for operator in dali_operators("gpu")
    }
    assert {operator for device, operator in used if device == "gpu"} <= set(ops.gpu_ops())  # type: ignore[attr-defined]
    assert {operator for device, operator in used if device == "mixed"} == {"decoders__Image"}
    assert "decoders__Image" in backend.RegisteredMixedOps()  # type: ignore[attr-defined]
    # What stays on the CPU are the plan's arrays: pixels do not come back from the GPU.
    plan_only = {"ExternalSource", "_TensorSubscript", "_ArithmeticGenericOp", "_conditional__Split"}
    assert {operator for device, operator in used if device == "cpu"} <= plan_only
