"""What a library does not promise to keep is used in one room each, below an upper bound, and tried here.

Where a test fails after an upgrade, its message names the library, its release and the room to mend.
"""

import ast
import importlib.metadata
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PUBLIC = {"_asdict", "_replace", "_exit"}  # of named tuples and of `os`: documented, whatever they are called


class Seam(NamedTuple):
    """A room that uses what is not promised, and a function that tries it."""

    library: str
    uses: str
    attempt: Callable[..., None]


def resize() -> None:
    import torch

    from pipeline.augment.crop_plan import Interpolation
    from pipeline.augment.resize import resize_into

    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    for interpolation in get_args(Interpolation):
        out = np.zeros((17, 23, 3), np.uint8)
        resize_into(out, pixels, interpolation)
        expected = torch.nn.functional.interpolate(image, (17, 23), mode=interpolation, antialias=True)
        np.testing.assert_array_equal(out, expected[0].permute(1, 2, 0).numpy())


def gradients() -> None:
    import torch

    from esvit.optim import OptimConfig, build_optimizer, clip_gradients, step_unless

    layer = torch.nn.Linear(3, 2)
    optimizer = build_optimizer(layer, OptimConfig())
    optimizer.param_groups[0]["lr"] = 0.1
    for parameter in layer.parameters():
        parameter.grad = torch.ones_like(parameter)
    assert float(clip_gradients(layer.parameters(), 1.0, "per_tensor")) == pytest.approx(8**0.5)
    assert layer.weight.grad is not None and float(layer.weight.grad.norm()) == pytest.approx(1)
    before = layer.weight.detach().clone()
    for failed in (True, False):
        step_unless(torch.tensor(failed), optimizer)
        assert torch.equal(layer.weight, before) == failed
    assert int(optimizer.state[layer.weight]["step"]) == 1


def teacher() -> None:
    import torch

    from esvit.models import BackboneConfig
    from esvit.models.head import HeadConfig
    from esvit.models.student_teacher import ModelConfig, StudentTeacher

    head = HeadConfig(num_prototypes=4, hidden=8, bottleneck=8)
    networks = StudentTeacher(ModelConfig(backbone=BackboneConfig(name="swin_nano"), head=head), with_regions=False)
    with torch.no_grad():
        next(networks.student.parameters()).add_(1.0)
    before = next(networks.teacher.parameters()).clone()
    for failed in (True, False):
        networks.update_teacher(0.75, unless=torch.tensor(failed))
        moved = next(networks.teacher.parameters()) - before
        assert torch.allclose(moved, torch.full_like(moved, 0.0 if failed else 0.25))


def memory() -> None:
    import torch

    from esvit.bench.memory import peak_bytes

    assert 2**20 <= peak_bytes(lambda: torch.zeros(2**20, dtype=torch.uint8)) < 2**20 + 1000


def requests(url: str) -> None:
    from pipeline.store import Store, ranges
    from pipeline.store.client import Client

    client, name = Client(url), "some"
    assert client.fs.retries == 1
    Store(url).put(name, bytes(range(200)))
    data, version = ranges.get(client, f"{client.root}/{name}", 50, 53, None)
    assert data == bytes([50, 51, 52]) and version.num_bytes == 200 and version.etag
    Store(url).put(name, bytes(200))
    try:
        ranges.get(client, f"{client.root}/{name}", 53, 56, version)
    except OSError:
        return
    raise AssertionError("a range of another version was delivered")


def redirects() -> None:
    import asyncio

    from pipeline.store.no_redirects import NoRedirects

    async def option() -> object:
        async with NoRedirects() as session:
            return (await session._get_session(None)).request.keywords["allow_redirects"]

    assert asyncio.run(option()) is False


SEAMS = {
    "pipeline/augment/resize.py": Seam("torch", "torch._C._nn._upsample_bicubic2d_aa and bilinear, with out=", resize),
    "esvit/models/student_teacher.py": Seam("torch", "torch._foreach_lerp_ with a weight on the device", teacher),
    "esvit/optim.py": Seam("torch", "torch._foreach_norm, _foreach_mul_, found_inf of the fused AdamW", gradients),
    "esvit/bench/memory.py": Seam("torch", "the events of torch.profiler's kineto_results", memory),
    "pipeline/store/ranges.py": Seam("s3fs", "S3FileSystem._call_s3, .retries and .loop", requests),
    "pipeline/store/no_redirects.py": Seam("s3fs", "AIOHTTPSession._get_session of its aiobotocore", redirects),
}


def run(room: str, *arguments: Any) -> None:
    library, uses, attempt = SEAMS[room]
    try:
        attempt(*arguments)
    except Exception as error:
        release = importlib.metadata.version(library)
        pytest.fail(
            f"{library} {release} broke {room}, which uses {uses}: {error!r}; mend that room, or lower the upper bound "
            f"of {library} in pyproject.toml"
        )


@pytest.mark.parametrize("room", [room for room, seam in SEAMS.items() if seam.library == "torch"])
def test_torch_still_has_what_we_use(room: str) -> None:
    pytest.importorskip("torch")
    run(room)


@pytest.mark.s3
def test_s3fs_still_has_what_we_use(s3_server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3_server.env.items():
        monkeypatch.setenv(name, value)
    run("pipeline/store/ranges.py", s3_server.new_url())


def test_the_session_of_s3fs_still_takes_our_option() -> None:
    run("pipeline/store/no_redirects.py")


def test_a_release_that_breaks_a_room_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.delattr(torch, "_foreach_norm")
    with pytest.raises(
        pytest.fail.Exception, match=rf"^torch {torch.__version__.partition('+')[0]}.* broke esvit/optim"
    ):
        run("esvit/optim.py")


def test_no_other_room_uses_what_is_private_to_somebody_else() -> None:
    found = {
        f"{name}:{node.lineno}: {ast.unparse(node)}"
        for folder in ("pipeline", "esvit", "tools")
        for path in (ROOT / folder).rglob("*.py")
        if (name := path.relative_to(ROOT).as_posix()) not in SEAMS
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__")
        if node.attr not in PUBLIC and not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"))
    }
    assert found == set()


@pytest.mark.parametrize("library", sorted({seam.library for seam in SEAMS.values()}))
def test_the_next_release_of_such_a_library_is_not_installed_untried(library: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *project["optional-dependencies"]["train"]]
    (requirement,) = (one for one in map(Requirement, lines) if one.name == library)
    assert any(bound.operator in ("<", "==") for bound in requirement.specifier), f"{library} needs an upper bound"
    pinned = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith(f"{library}==")]
    assert requirement.specifier.contains(pinned[0].partition("==")[2])
