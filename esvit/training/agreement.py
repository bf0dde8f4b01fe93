"""All ranks train on the same data, from the same checkpoint, with the same settings; or none does.

Each rank reads these files by itself, since that needs no further code, and the ranks compare digests: one collective
call of a few bytes. In the bad case a file was replaced between the reads of two ranks, or a node has another config.
Without this, such a run would train some samples twice, or on two networks, and end with status 0.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch

from esvit.distributed import World
from esvit.training.config import TrainConfig
from pipeline.errors import UserError
from pipeline.loader import ViewLoader

_OF_A_NODE = ("output", "device", "data", "metrics")  # sections that may differ from node to node


class DisagreementError(UserError):
    """Two ranks have read different things."""


def agree(here: World, facts: Mapping[str, str]) -> None:
    """Compare what the ranks have read; a collective call.

    Args:
        facts: What was read, and its digest. Every rank has the same keys, unless they are what differs.

    Raises:
        DisagreementError: on every rank, if two differ; the message names the first difference.
    """
    ranks = here.from_all(dict(facts))
    for rank, theirs in enumerate(ranks):
        for what in sorted(ranks[0].keys() | theirs.keys()):
            first, other = ranks[0].get(what, "nothing"), theirs.get(what, "nothing")
            if first != other:
                raise DisagreementError(
                    f"the ranks disagree on the {what}: rank 0 has {first}, rank {rank} has {other}; "
                    "give every rank the same, and start again once nobody writes there"
                )


def facts_of(config: TrainConfig, loader: ViewLoader) -> dict[str, str]:
    """Manifests, order and settings, each with a short digest or its value."""
    order = loader.state_dict()
    manifests = order.pop("manifest_digest").split("+")
    facts = {
        f"manifest of {source.url}" if len(manifests) == 1 else f"manifest of data set {number}": digest[:16]
        for number, (source, digest) in enumerate(zip(config.data.stream.sources, manifests, strict=True))
    }
    facts |= {f"order of samples ({key})": str(value) for key, value in order.items()}
    facts["setting data.executor"] = config.data.executor
    sections = config.model_dump(mode="json", exclude=set(_OF_A_NODE))
    return facts | {f"setting {name}": _short(section) for name, section in sections.items()}


def digest_of(saved: dict[str, Any]) -> str:
    """A digest of a checkpoint in memory: of all names, values and tensors."""
    digest = hashlib.blake2b(digest_size=8)
    _add(digest, saved)
    return digest.hexdigest()


def _add(digest: "hashlib.blake2b", value: Any) -> None:
    if isinstance(value, torch.Tensor):
        digest.update(f"{value.dtype} {list(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            digest.update(f"{key}:".encode())
            _add(digest, item)
    else:
        digest.update(repr(value).encode())


def _short(section: Any) -> str:
    """The value, or for a section a digest."""
    if not isinstance(section, dict):
        return str(section)
    return hashlib.sha256(json.dumps(section, sort_keys=True).encode()).hexdigest()[:16]
