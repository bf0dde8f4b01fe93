"""The state of a run between two steps, saved to and restored from checkpoints."""

from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.amp import GradScaler
from torch.optim import Optimizer

from esvit.checkpoints.files import CheckpointError
from esvit.models.positions import fitted
from esvit.models.student_teacher import StudentTeacher
from esvit.optim import load_optimizer_state_by_name, optimizer_state_by_name
from pipeline.loader import ViewLoader

# Sections that a resumed run may change without a warning.
_FREE = ("output", "device", "data", "metrics", "checkpoint")


@dataclass
class TrainState:
    """The state of a run between two steps.

    There is no random state: docs/decisions/0003-no-random-state-in-checkpoints.md says why. `scaler` scales the loss
    of fp16, and is disabled for other precisions. A state without a `loader` can be trained, but not saved or resumed.
    """

    networks: StudentTeacher
    loss: nn.Module
    optimizer: Optimizer
    scaler: GradScaler
    loader: ViewLoader | None
    config: dict[str, Any]
    step: int = 0

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values only."""
        assert self.loader, "a state without a loader has no place in the data to be saved"
        return {
            "student": self.networks.student.state_dict(),
            "teacher": self.networks.teacher.state_dict(),
            "loss": self.loss.state_dict(),
            "optimizer": optimizer_state_by_name(self.optimizer),
            "scaler": self.scaler.state_dict(),
            "loader": self.loader.state_dict(),
            "step": self.step,
            "config": self.config,
        }

    def resume(self, saved: dict[str, Any], *, regions_begun: bool = True) -> list[str]:
        """Continue exactly from the state `saved`; return the keys of settings that have changed since.

        Args:
            regions_begun: Whether the phase of regions has begun there. If not, what `saved` has of them is left out.

        Raises:
            CheckpointError: `saved` is of another network.
            OrderError: `saved` belongs to another data set or order of samples.
        """
        assert self.loader, "a state without a loader has no place in the data to go on from"
        if absent := sorted({"student", "teacher", "loss", "optimizer", "scaler", "loader", "config"} - saved.keys()):
            raise CheckpointError(f"the checkpoint has no {', no '.join(absent)}, so a run cannot resume from it")
        self.loader.load_state_dict(saved["loader"])
        lacking = self._load_networks(saved, regions_begun)
        if lost := [name for name in lacking if regions_begun or not _is_of_regions(name.partition(".")[2])]:
            raise CheckpointError(f"the checkpoint lacks {lost[0]}, which this network has")
        if saved["scaler"]:
            self.scaler.load_state_dict(saved["scaler"])
        self.step = saved["step"]
        return [key for key in changed_keys(saved["config"], self.config) if key.partition(".")[0] not in _FREE]

    def start_from(self, saved: dict[str, Any], step: int = 0, *, regions_begun: bool = True) -> list[str]:
        """Load the networks, centres and optimiser state of another run; return the names that start fresh.

        Args:
            step: Where this run begins, in its schedules and in its data.
            regions_begun: As for `resume`.

        Raises:
            CheckpointError: `saved` lacks one of these, or has a parameter that this network lacks or has in another
                shape.
        """
        words = {"student": "student", "teacher": "teacher", "loss": "centres", "optimizer": "optimiser state"}
        if lacking := [word for part, word in words.items() if part not in saved]:
            raise CheckpointError(
                f"the checkpoint has no {', no '.join(lacking)}, so a run cannot start from it; "
                "checkpoint.start_backbone_from takes the backbone alone"
            )
        fresh = self._load_networks(saved, regions_begun)
        if step:
            assert self.loader, "a state without a loader has no place in the data to go on from"
            self.loader.load_state_dict({**self.loader.state_dict(), "position": step})
        self.step = step
        return fresh

    def start_backbone_from(self, saved: dict[str, Any]) -> list[str]:
        """Load one backbone of another run into student and teacher; return the names of resized tables.

        Raises:
            CheckpointError: the backbone does not fit, even with resized position tables.
        """
        network, prefix = "teacher" if "teacher" in saved else "student", "backbone."
        found = {name.removeprefix(prefix): t for name, t in saved[network].items() if name.startswith(prefix)}
        shapes = {name: tensor.shape for name, tensor in self.networks.student.backbone.state_dict().items()}
        found, resized = fitted(found, shapes)
        for one in (self.networks.student, self.networks.teacher):
            try:
                one.backbone.load_state_dict(found)
            except RuntimeError as error:
                raise CheckpointError(_first_problem(f"{network}'s backbone", error)) from None
        return resized

    def _load_networks(self, saved: dict[str, Any], regions_begun: bool) -> list[str]:
        """Load what `saved` has, but for regions that have not begun; returns the names of the rest of the network."""

        def taken(tensors: dict[str, Any]) -> dict[str, Any]:
            return {name: value for name, value in tensors.items() if regions_begun or not _is_of_regions(name)}

        if self.networks.student.region_head is None:
            regions_begun = True  # never: regions in `saved` are those of another network, and refused
        fresh = []
        modules = {"student": self.networks.student, "teacher": self.networks.teacher, "loss": self.loss}
        for name, module in modules.items():
            try:
                missing, unexpected = module.load_state_dict(taken(saved[name]), strict=False)
            except RuntimeError as error:
                raise CheckpointError(_first_problem(name, error)) from None
            if unexpected:
                raise CheckpointError(f"the checkpoint's {name} has '{unexpected[0]}', which this network lacks")
            fresh += [f"{name}.{key}" for key in missing]
        frozen = {name for name, p in self.networks.student.named_parameters() if not p.requires_grad}
        moments = {name: moments for name, moments in taken(saved["optimizer"]).items() if name not in frozen}
        load_optimizer_state_by_name(self.optimizer, moments)
        return fresh


def _is_of_regions(name: str) -> bool:
    return name.startswith(("region_head.", "region_center."))


def changed_keys(before: dict[str, Any], now: dict[str, Any], prefix: str = "") -> list[str]:
    """The dotted keys whose values differ between two resolved configs."""
    changed = []
    for key in sorted(before.keys() | now.keys()):
        old, new = before.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            changed += changed_keys(old, new, f"{prefix}{key}.")
        elif old != new:
            changed.append(f"{prefix}{key}")
    return changed


def _first_problem(name: str, error: RuntimeError) -> str:
    problems = [line.strip() for line in str(error).splitlines()[1:]]
    return f"the checkpoint's {name} does not fit this network: {problems[0]} ({len(problems)} problems in all)"
