"""The loader in the frameworks that people have: saved anywhere, it goes on with the next batch."""

import warnings
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import accelerate
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset
from torchdata.stateful_dataloader import Stateful, StatefulDataLoader

from pipeline.augment import MultiCropConfig
from pipeline.augment.plan import ViewGroup
from pipeline.library.in_one_call import view_loader
from pipeline.loader import ViewBatch, ViewLoader
from pipeline.loops import IterationError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import lightning

STEPS = 4  # of an epoch
RECIPE = MultiCropConfig(views=(ViewGroup(size=8, count=2, area=(0.4, 1.0)),))
# Of Lightning and torchdata, about the torch below them.
pytestmark = pytest.mark.filterwarnings("ignore")

Place = tuple[int, int, list[int]]


def open_views(shards: Path) -> ViewLoader:
    return view_loader(str(shards), 8, recipe=RECIPE)


def place(batch: ViewBatch) -> Place:
    return batch.epoch, batch.step, batch.ids.tolist()


@pytest.fixture(scope="module")
def whole(shards: Path) -> list[Place]:
    """Three epochs without a stop."""
    with open_views(shards) as loader:
        return [place(batch) for batch in islice(loader.forever(), 3 * STEPS)]


def test_a_plain_data_loader_passes_the_batches_on(shards: Path, whole: list[Place]) -> None:
    with open_views(shards) as views:
        loader = DataLoader(views, batch_size=None)
        assert isinstance(views, IterableDataset) and isinstance(views, Stateful) and len(loader) == STEPS
        for epoch in range(2):
            assert [place(batch) for batch in loader] == whole[epoch * STEPS : (epoch + 1) * STEPS]


def test_worker_processes_are_refused(shards: Path) -> None:
    with open_views(shards) as views, pytest.raises(IterationError, match="use num_workers=0"):
        list(DataLoader(views, batch_size=None, num_workers=1))


@pytest.mark.parametrize("position", [0, 1, 3, 4, 6])
def test_a_stateful_data_loader_saves_it_and_restores_it(shards: Path, whole: list[Place], position: int) -> None:
    with open_views(shards) as views:
        loader = StatefulDataLoader(views, batch_size=None)
        found: list[Place] = []
        while len(found) < position:
            found += [place(batch) for batch in islice(loader, position - len(found))]
        state = loader.state_dict()
    assert found == whole[:position]
    with open_views(shards) as views:
        loader = StatefulDataLoader(views, batch_size=None)
        loader.load_state_dict(state)
        end = (position // STEPS + 1) * STEPS
        assert [place(batch) for batch in loader] == whole[position:end]
        assert [place(batch) for batch in loader] == whole[end : end + STEPS]


class Module(lightning.LightningModule):
    def __init__(self, shards: Path) -> None:
        super().__init__()
        self.shards, self.seen, self.net = shards, list[Place](), torch.nn.Linear(8, 1)

    def train_dataloader(self) -> Any:
        self.loader = open_views(self.shards)
        return self.loader

    def training_step(self, batch: ViewBatch, _index: int) -> torch.Tensor:
        self.seen.append(place(batch))
        loss: torch.Tensor = self.net(batch.views[0]).mean()
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def fit(shards: Path, folder: Path, resume: Path | None = None, **until: Any) -> tuple[Any, list[Place]]:
    module = Module(shards)
    trainer = lightning.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, default_root_dir=folder, **until,
    )  # fmt: skip
    trainer.fit(module, ckpt_path=resume)
    module.loader.close()
    return trainer, module.seen


@pytest.mark.parametrize("position", [1, 3, 4, 5, 8])
def test_lightning_resumes_it_within_an_epoch_and_between_two(
    shards: Path, whole: list[Place], tmp_path: Path, position: int
) -> None:
    trainer, seen = fit(shards, tmp_path, max_steps=position)
    assert seen == whole[:position]
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    _, rest = fit(shards, tmp_path, tmp_path / "run.ckpt", max_steps=11)
    assert rest == whole[position:11]


def test_an_epoch_of_lightning_is_an_epoch_of_the_loader(shards: Path, whole: list[Place], tmp_path: Path) -> None:
    trainer, seen = fit(shards, tmp_path, max_epochs=2)
    assert seen == whole[: 2 * STEPS] and trainer.current_epoch == 2


@pytest.fixture
def accelerator() -> Iterator[accelerate.Accelerator]:
    yield accelerate.Accelerator(cpu=True)
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)


def test_accelerate_saves_it_and_restores_it(
    shards: Path, whole: list[Place], tmp_path: Path, accelerator: accelerate.Accelerator
) -> None:
    with open_views(shards) as views:
        loader = accelerator.prepare(views)
        assert loader is views
        accelerator.register_for_checkpointing(loader)
        batches = iter(loader)
        assert [place(next(batches)) for _ in range(6 % STEPS)] == whole[:2]
        accelerator.save_state(str(tmp_path / "state"))
        assert place(next(batches)) == whole[2]
        accelerator.load_state(str(tmp_path / "state"))
        assert [place(batch) for batch in loader] == whole[2:STEPS]
