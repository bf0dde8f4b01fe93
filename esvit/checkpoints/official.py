"""Checkpoints that EsViT's authors published, Swin with any window: networks, heads, centres and optimiser state.

    saved = load_official("checkpoint.pth")         # or: --set checkpoint.start_from=checkpoint.pth

Strict: a tensor too many, too few or of another shape is an error. The file is read with `weights_only`, so it cannot
run code. What differs there, and is translated here: `module.` before names, from DDP; `head` and `head_dense` for the
view and the region head; a stage's downsampling counted to the stage before; masks and position indices in the state.
"""

import argparse
import pickle
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from esvit.models import BACKBONES, BackboneConfig
from esvit.models.head import HeadConfig
from esvit.models.student_teacher import ModelConfig, Network
from esvit.models.swin import SwinArchitecture
from pipeline.errors import UserError

State = dict[str, Tensor]
_DERIVED = ("relative_position_index", "attn_mask")  # follow from the architecture
_HEADS = {"head.": "view_head.", "head_dense.": "region_head."}
_MOMENTS = ("exp_avg", "exp_avg_sq")


class OfficialCheckpointError(UserError):
    """The file is not a published EsViT checkpoint, or not of a network that we know."""


def load_official(path: str | Path) -> dict[str, Any]:
    """Read a published checkpoint as one of ours.

    Returns:
        "student", "teacher" and "loss" as state dicts of `Network` and `EsvitLoss`, "optimizer" by parameter name,
        "config" with the "model" that fits, "step" 0.

    Raises:
        OfficialCheckpointError: it cannot be read, lacks a part, or does not fit the network that its sizes imply.
    """
    saved = _read(path)
    try:
        student, teacher, centers = saved["student"], saved["teacher"], saved["dino_loss"]
        optimizer = saved["optimizer"]
    except KeyError as error:
        raise OfficialCheckpointError(f"{path} has no {error}; is it a full EsViT checkpoint?") from None
    translated = {"student": _translate(student), "teacher": _translate(teacher)}
    model = _model_config(translated["student"], saved.get("args", argparse.Namespace()))
    for name, state in translated.items():
        _check(f"{path}, {name}", state, model)
    names = {"center": "view_center.center", "center_grid": "region_center.center"}
    return {
        **translated,
        "loss": {names[name]: center.flatten() for name, center in centers.items() if name in names},
        "optimizer": _optimizer_by_name(_parameters(student, model), optimizer),
        "config": {"model": model.model_dump(mode="json")},
        "step": 0,
    }


def _read(path: str | Path) -> dict[str, Any]:
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            saved = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise OfficialCheckpointError(f"cannot read {path}: {error.strerror}") from None
    except (RuntimeError, pickle.UnpicklingError, EOFError) as error:
        raise OfficialCheckpointError(f"{path} is not a checkpoint: {str(error).splitlines()[0]}") from None
    if not isinstance(saved, dict):
        raise OfficialCheckpointError(f"{path} is not a checkpoint: it holds a {type(saved).__name__}")
    return saved


def _translate(state: State) -> State:
    """Their names to ours, without what can be derived."""
    return {our_name(name): tensor for name, tensor in state.items() if not name.endswith(_DERIVED)}


def our_name(name: str) -> str:
    """The name that `Network` gives a tensor of theirs."""
    name = name.removeprefix("module.")
    for theirs, ours in _HEADS.items():
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return "backbone." + re.sub(
        r"^layers\.(\d+)\.downsample", lambda match: f"layers.{int(match[1]) + 1}.downsample", name
    )


def _model_config(state: State, arguments: argparse.Namespace) -> ModelConfig:
    """The network that the shapes of the student's tensors imply."""
    try:
        embed_dim = len(state["backbone.patch_embed.proj.weight"])
        table = "backbone.layers.{}.blocks.{}.attn.relative_position_bias_table"
        window = (round(len(state[table.format(0, 0)]) ** 0.5) + 1) // 2
        last_layer = state["view_head.last_layer.weight_v"]
    except KeyError as error:
        raise OfficialCheckpointError(f"the checkpoint lacks {error}; only EsViT's Swin networks can be read") from None
    depths = tuple(
        sum(table.format(stage, block) in state for block in range(len(state)))
        for stage in range(1 + max(int(n.split(".")[2]) for n in state if n.startswith("backbone.layers.")))
    )
    name = next(
        (
            name
            for name, row in BACKBONES.items()
            if isinstance(row, SwinArchitecture) and (row.embed_dim, row.depths) == (embed_dim, depths)
        ),
        None,
    )
    if name is None:
        raise OfficialCheckpointError(f"no Swin of ours has width {embed_dim} and depths {list(depths)}")
    layers = [tensor for key, tensor in state.items() if re.fullmatch(r"view_head\.mlp\.\d+\.weight", key)]
    layers = [tensor for tensor in layers if tensor.ndim == 2]  # not those of batch norm
    head = HeadConfig(
        num_prototypes=len(last_layer),
        hidden=len(layers[0]) if len(layers) > 1 else HeadConfig().hidden,
        bottleneck=last_layer.shape[1],
        num_layers=len(layers),
        batch_norm="view_head.mlp.1.running_mean" in state,
        norm_last_layer=bool(getattr(arguments, "norm_last_layer", False)),
    )
    return ModelConfig(backbone=BackboneConfig(name=name, window_size=window), head=head)


def _check(origin: str, state: State, model: ModelConfig) -> None:
    """Every tensor of the network is there in its shape, and no other."""
    with torch.device("meta"):
        network = Network(model, drop_path=False, with_regions=any(name.startswith("region_head.") for name in state))
    expected = {name: tensor.shape for name, tensor in network.state_dict().items()}
    problems = [f"it lacks {name}" for name in expected.keys() - state.keys()]
    problems += [f"it has {name}, which the network lacks" for name in state.keys() - expected.keys()]
    problems += [
        f"{name} is of shape {list(state[name].shape)}, not {list(shape)}"
        for name, shape in expected.items()
        if name in state and state[name].shape != shape
    ]
    if problems:
        raise OfficialCheckpointError(
            f"{origin} does not fit {model.backbone.name}: {min(problems)} ({len(problems)} problems in all)"
        )


def _parameters(student: State, model: ModelConfig) -> State:
    """The parameters that were trained, by our names, in the order in which their optimiser counts them."""
    buffers = (*_DERIVED, "running_mean", "running_var", "num_batches_tracked")
    frozen = ("weight_g",) if model.head.norm_last_layer else ()
    trained = {our_name(n): p for n, p in student.items() if not n.endswith(buffers + frozen)}
    exempt = {name for name, tensor in trained.items() if name.endswith(".bias") or tensor.ndim == 1}
    return {n: p for n, p in trained.items() if n not in exempt} | {n: trained[n] for n in trained if n in exempt}


def _optimizer_by_name(parameters: State, optimizer: dict[str, Any]) -> dict[str, dict[str, Tensor]]:
    """AdamW's moments and step of each parameter; empty where the file has none."""
    by_name: dict[str, dict[str, Tensor]] = {}
    if optimizer["state"] and sum(len(group["params"]) for group in optimizer["param_groups"]) != len(parameters):
        raise OfficialCheckpointError("the checkpoint's optimizer has another number of parameters than its student")
    for index, (name, parameter) in enumerate(parameters.items()):
        if index not in optimizer["state"]:
            continue
        state = optimizer["state"][index]
        if any(state[moment].shape != parameter.shape for moment in _MOMENTS):
            raise OfficialCheckpointError(f"the checkpoint's optimizer state of {name} is of another shape")
        step = torch.as_tensor(float(state["step"]))
        by_name[name] = {"step": step, **{moment: state[moment] for moment in _MOMENTS}}
    return by_name
