"""Multi-crop augmentation: a plan of all random choices, and executors that render it."""

import torch

from pipeline.augment.crop_plan import CropPlan, Planner
from pipeline.augment.executor import BadImages, Executor, Output, normalised
from pipeline.augment.plan import CenterCrop, CenterCropConfig, MultiCrop, MultiCropConfig
from pipeline.augment.recipes import RECIPES, Recipe, build_planner
from pipeline.errors import UserError

__all__ = [
    "EXECUTORS",
    "RECIPES",
    "BadImages",
    "CenterCrop",
    "CenterCropConfig",
    "CropPlan",
    "Executor",
    "ExecutorError",
    "MultiCrop",
    "MultiCropConfig",
    "Output",
    "Planner",
    "Recipe",
    "build_executor",
    "build_planner",
    "normalised",
]

EXECUTORS = ("reference", "cpu", "dali")


class ExecutorError(UserError):
    """The executor is unknown or cannot run on this machine."""


def build_executor(name: str, num_threads: int, device: torch.device, output: Output = "float32") -> Executor:
    """The executor called `name`, with views of type `output`; "dali" runs on `device`, the others on the CPU.

    Raises:
        ExecutorError: the name is unknown, DALI is not installed, or there is no such device.
    """
    # Imported on demand: DALI takes seconds to import and has no wheel for some platforms.
    if name == "reference":
        from pipeline.augment.reference import ReferenceExecutor

        return ReferenceExecutor(num_threads, output)
    if name == "cpu":
        from pipeline.augment.cpu import CpuExecutor

        return CpuExecutor(num_threads, output)
    if name == "dali":
        try:
            from pipeline.augment.dali import DaliExecutor
        except ImportError as error:
            raise ExecutorError(
                f"the dali executor needs NVIDIA DALI ({error}); run: pip install 'esvit-streaming[dali]', or use "
                "executor 'cpu'"
            ) from None
        if device.type == "cuda" and not torch.cuda.is_available():
            raise ExecutorError("the dali executor finds no CUDA device on this machine; use device 'cpu'")
        return DaliExecutor(num_threads, device, output)
    raise ExecutorError(f"unknown executor '{name}'; choose one of {', '.join(EXECUTORS)}")
