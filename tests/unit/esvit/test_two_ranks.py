"""Two processes with half a batch each compute what one does with all of it. Run as a script: one rank."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from esvit.distributed import World
from esvit.guards import FiniteGuard
from esvit.losses import EsvitLoss, LossConfig
from esvit.losses.center import Center
from esvit.models import BackboneConfig
from esvit.models.head import HeadConfig
from esvit.models.student_teacher import ModelConfig, StudentTeacher
from esvit.optim import OptimConfig, build_optimizer
from esvit.schedules import StepValues
from esvit.state import TrainState
from esvit.step import StepSettings, train_step
from support.forking import Ranks

BATCH, K, STEPS = 4, 10, 2
UNEVEN = [torch.arange(3.0 * K).reshape(3, K), torch.full((1, K), 100.0)]  # rows of rank 0 and rank 1


def headed(name: str) -> Callable[[str], str]:
    """Messages that begin with the name of what differs."""
    return lambda text: f"{name}: {text}"


def train(images: slice, distributed: bool) -> dict[str, torch.Tensor]:
    """Two steps of plain SGD on `images` of each view; returns losses, centres and parameters."""
    torch.manual_seed(0)
    head = HeadConfig(num_prototypes=K, hidden=16, bottleneck=8)
    pair = StudentTeacher(ModelConfig(backbone=BackboneConfig(name="swin_nano"), head=head), with_regions=True)
    student = DistributedDataParallel(pair.student) if distributed else pair.student
    objective = EsvitLoss(LossConfig(), K)
    views = [torch.randn(2, BATCH, 3, 32, 32)[:, images], torch.randn(3, BATCH, 3, 16, 16)[:, images]]
    losses = []
    for _ in range(STEPS):
        loss = objective(student(views), pair.teacher(views[:1]), 0.04)["loss"]
        student.zero_grad()
        loss.backward()
        with torch.no_grad():
            for parameter in pair.student.parameters():
                assert parameter.grad is not None
                parameter.sub_(0.1 * parameter.grad)
        pair.update_teacher(0.9)
        losses.append(loss.detach())
    return {"losses": torch.stack(losses), **objective.state_dict(), **pair.state_dict()}


def train_in_parts(images: slice, here: World, parts: int) -> dict[str, torch.Tensor]:
    """Two whole training steps on `images` of each view, one part after the other; returns centres and parameters."""
    torch.manual_seed(0)
    head = HeadConfig(num_prototypes=K, hidden=64, bottleneck=16)
    pair = StudentTeacher(ModelConfig(backbone=BackboneConfig(name="swin_nano"), head=head), with_regions=True)
    config = OptimConfig(eps=1e-4)  # where a gradient is nothing but rounding, AdamW shall not follow it
    optimizer, scaler = build_optimizer(pair.student, config), torch.amp.GradScaler("cpu", enabled=False)
    state = TrainState(pair, EsvitLoss(LossConfig(), K), optimizer, scaler, None, {})
    views = [torch.randn(2, BATCH, 3, 32, 32)[:, images], torch.randn(3, BATCH, 3, 16, 16)[:, images]]
    student, guard = here.wrap(pair.student), FiniteGuard(here.device)
    for _ in range(STEPS):
        values = StepValues(lr=1e-2, weight_decay=0.04, momentum=0.9, teacher_temperature=0.04)
        settings = StepSettings(config, "fp32", parts)
        train_step(state, student, views, values, settings, epoch=1, guard=guard)
        state.step += 1
    return {**state.loss.state_dict(), **pair.state_dict()}


def run_rank(rank: int, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    results = train(slice(rank * 2, rank * 2 + 2), distributed=True)
    center = Center(K, momentum=0.0)
    center.update(UNEVEN[rank].sum(dim=0), len(UNEVEN[rank]))
    here = World(rank, rank, 2, torch.device("cpu"))
    guard = FiniteGuard(here.device)
    guard.observe(7 - rank, torch.tensor(float("nan")))
    facts = {
        "uneven": center.center,
        "sum": here.sum(torch.tensor([1, rank])),
        "mean": here.mean({"rank": torch.tensor(rank)})["rank"],
        "first failure": guard.first_failure(here),
        "any": here.any(rank == 1),
        "from main": here.from_main(f"rank {rank}"),
        "in parts": train_in_parts(slice(rank * 2, rank * 2 + 2), here, parts=2),
    }
    torch.save({**results, **facts}, folder / f"{rank}.pt")
    dist.destroy_process_group()


def test_two_ranks_equal_one(tmp_path: Path) -> None:
    with Ranks([__file__, str(tmp_path)], os.environ, num_ranks=2) as ranks:
        expected = train(slice(None), distributed=False)
        done = ranks.end()
    assert done.returncode == 0, done.stderr
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    first["losses"] = (first["losses"] + second["losses"]) / 2
    for name, value in expected.items():
        torch.testing.assert_close(first[name], value, rtol=1e-5, atol=1e-6, msg=headed(name))
    assert first["sum"].tolist() == second["sum"].tolist() == [2, 1]
    for facts in (first, second):
        assert (facts["mean"], facts["first failure"], facts["any"], facts["from main"]) == (0.5, 6, True, "rank 0")
    alone = train_in_parts(slice(None), World(0, 0, 1, torch.device("cpu")), parts=1)
    for name, value in alone.items():  # a wrong scale of the gradients would show as 1e-2
        torch.testing.assert_close(first["in parts"][name], value, rtol=1e-4, atol=1e-4, msg=headed(name))
    torch.testing.assert_close(first["uneven"], torch.cat(UNEVEN).mean(dim=0))
    torch.testing.assert_close(second["view_center.center"], expected["view_center.center"])


if __name__ == "__main__":
    torch.set_num_threads(1)
    run_rank(int(os.environ["RANK"]), Path(sys.argv[1]))
