"""Checkpoints in the format of EsViT's authors: Swin, ViL, CvT, DeiT and ViT, ResNet-50, whole or in part.

    saved = load_official("checkpoint.pth")         # or: --set checkpoint.start_from=checkpoint.pth

A whole file has networks, heads, centres and optimiser state. For evaluation and export, one network without heads is
enough. A file of tensors alone is taken for a teacher.

Strict: an extra tensor, a missing tensor or another shape is an error. The file is read with `weights_only`, so it
cannot run code. Translated here: the `module.` of DDP before names; `head` and `head_dense`, the authors' view and
region head; the names of the backbone (`their_names.py`). Tensors that follow from the architecture are dropped.
"""

import argparse
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from esvit.checkpoints.their_names import FAMILIES, Family, family_of, our_name, translated
from esvit.checkpoints.their_networks import OfficialCheckpointError, model_of, problems, refuse
from esvit.checkpoints.unpickled import DamagedError, unpickled
from esvit.models.student_teacher import ModelConfig

__all__ = ["OfficialCheckpointError", "load_official"]

State = dict[str, Tensor]
_NETWORKS = ("student", "teacher")
_CENTERS = {"center": "view_center.center", "center_grid": "region_center.center"}
# Tensors that follow from the architecture, and classifiers of labels.
_LEFT = re.compile(r"(?:.*\.)?(relative_position_index|attn_mask|rel_pos_idx)|(head)\.(?:weight|bias)")
# A ViL's layers for its global tokens: the layers of the other tokens, under a second name.
_ALIAS = re.compile(r"(.*\.attn\.(?:query|kv|proj))_global(\..*)")
_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")
_MOMENTS = ("exp_avg", "exp_avg_sq")


def load_official(path: str | Path, say: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """Read a checkpoint of the authors in our own format.

    Args:
        say: Called with what the file lacks, and with what is left out.

    Returns:
        Where the file has them: "student" and "teacher", state dicts of `Network`; "loss", of `EsvitLoss`; "optimizer"
        by parameter name; "epoch", the epochs trained. Always: "config" with the "model" that fits; "step" 0.

    Raises:
        OfficialCheckpointError: the file cannot be read, has no network, or does not fit the network that its sizes
            imply.
    """
    saved = _read(path)
    theirs = _networks(path, saved)
    kept = {name: _kept(f"{path}, {name}", state) for name, state in theirs.items()}
    arguments = saved.get("args")
    arguments = arguments if isinstance(arguments, argparse.Namespace) else argparse.Namespace()
    first = next(iter(kept))
    family = _family(f"{path}, {first}", kept[first])
    ours = {name: translated(state, family) for name, state in kept.items()}
    model = model_of(f"{path}, {first}", ours[first], family, arguments)
    for name, state in ours.items():
        refuse(f"{path}, {name}", problems(state, model), model)
    result: dict[str, Any] = {**ours, "config": {"model": model.model_dump(mode="json")}, "step": 0}
    centers: Any = saved.get("dino_loss")
    if _are_tensors(centers):
        result["loss"] = {_CENTERS[name]: center.flatten() for name, center in centers.items() if name in _CENTERS}
    if "student" in kept and _is_adamw(saved.get("optimizer")):
        result["optimizer"] = _optimizer_by_name(_parameters(kept["student"], model), saved["optimizer"], family)
    if isinstance(saved.get("epoch"), int):
        result["epoch"] = saved["epoch"]
    _report(path, saved, theirs, result, say)
    return result


def _read(path: str | Path) -> dict[str, Any]:
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return unpickled(Path(path))
    except OSError as error:
        raise OfficialCheckpointError(f"cannot read {path}: {error.strerror}") from None
    except DamagedError as error:
        raise OfficialCheckpointError(f"{path} is not a checkpoint: {error}") from None


def _networks(path: str | Path, saved: dict[str, Any]) -> dict[str, State]:
    """The networks of the file, names without `module.`."""
    found = {name: saved[name] for name in _NETWORKS if saved.get(name)} or {"teacher": saved.get("model", saved)}
    for state in found.values():
        if not _are_tensors(state):
            raise OfficialCheckpointError(f"{path} has neither a 'student' nor a 'teacher'; is it an EsViT checkpoint?")
    return {name: {key.removeprefix("module."): t for key, t in state.items()} for name, state in found.items()}


def _are_tensors(state: Any) -> bool:
    return isinstance(state, Mapping) and bool(state) and all(isinstance(tensor, Tensor) for tensor in state.values())


def _is_adamw(optimizer: Any) -> bool:
    """Whether this is the state of AdamW. The authors' code has other optimisers; we cannot use their state."""
    if not isinstance(optimizer, Mapping) or not {"state", "param_groups"} <= optimizer.keys():
        return False
    return all({"step", *_MOMENTS} <= state.keys() for state in optimizer["state"].values())


def _kept(origin: str, state: State) -> State:
    """The tensors that our network has too, without second names.

    Raises:
        OfficialCheckpointError: the global tokens of a ViL have separate layers.
    """
    kept = {}
    for name, tensor in state.items():
        if alias := _ALIAS.fullmatch(name):
            if not torch.equal(tensor, state.get(alias[1] + alias[2], tensor[:0])):
                raise OfficialCheckpointError(
                    f"{origin} has {name} beside {alias[1]}{alias[2]} (SHARE_W: False); ours has one layer for both"
                )
        elif not _LEFT.fullmatch(name):
            kept[name] = tensor
    return kept


def _family(origin: str, state: State) -> Family:
    family = family_of(state)
    if family is None:
        known = ", ".join(family.name for family in FAMILIES)
        raise OfficialCheckpointError(f"{origin} holds an unknown backbone; the known ones are {known}")
    return family


def _parameters(student: State, model: ModelConfig) -> State:
    """The trained parameters by the authors' names, in the order of the authors' optimiser."""
    left = (*_BUFFERS, *(("weight_g",) if model.head.norm_last_layer else ()))
    trained = {name: p for name, p in student.items() if not name.endswith(left)}
    exempt = {name for name, tensor in trained.items() if name.endswith(".bias") or tensor.ndim == 1}
    return {n: p for n, p in trained.items() if n not in exempt} | {n: trained[n] for n in trained if n in exempt}


def _optimizer_by_name(parameters: State, optimizer: dict[str, Any], family: Family) -> dict[str, dict[str, Tensor]]:
    """AdamW's moments and step per parameter, by our names; empty where the file has none."""
    states: dict[int, dict[str, Any]] = optimizer["state"]
    if states and sum(len(group["params"]) for group in optimizer["param_groups"]) != len(parameters):
        raise OfficialCheckpointError("the checkpoint's optimizer and student have different numbers of parameters")
    found = {name: states[index] for index, name in enumerate(parameters) if index in states}
    for name, state in found.items():
        if any(state[moment].shape != parameters[name].shape for moment in _MOMENTS):
            raise OfficialCheckpointError(f"the checkpoint's optimizer state of {name} has another shape than {name}")
    steps = {our_name(name, family): torch.as_tensor(float(state["step"])) for name, state in found.items()}
    moments = {
        moment: translated({name: state[moment] for name, state in found.items()}, family) for moment in _MOMENTS
    }
    return {
        name: {"step": step, **{moment: moments[moment][name] for moment in _MOMENTS}} for name, step in steps.items()
    }


def _report(
    path: str | Path,
    saved: dict[str, Any],
    theirs: dict[str, State],
    result: dict[str, Any],
    say: Callable[[str], None],
) -> None:
    """Say what the file lacks, and which of its entries are left out."""
    words = {"student": "student", "teacher": "teacher", "loss": "centres", "optimizer": "optimiser state"}
    if lacking := [word for part, word in words.items() if part not in result]:
        say(f"{path} has no {', no '.join(lacking)}: it is enough for evaluation and export, not for training")
    taken = {*_NETWORKS, *result, "args", "model", *(["dino_loss"] if "loss" in result else [])}
    left = (
        [] if all(isinstance(value, Tensor) for value in saved.values()) else [key for key in saved if key not in taken]
    )
    for state in theirs.values():
        left += [found[1] or found[2] for name in state if (found := _LEFT.fullmatch(name))]
    if left:
        counts = {name: left.count(name) for name in left}
        say(f"{path}: left out " + ", ".join(name if n == 1 else f"{n} x {name}" for name, n in counts.items()))
