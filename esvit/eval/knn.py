"""k-nearest-neighbour classification of frozen features (EsViT, section 4; the protocol of Wu et al., 2018)."""

import unicodedata
from collections.abc import Sequence
from itertools import zip_longest
from typing import NamedTuple

from esvit.eval.features import LabelledFeatures, check_classes
from pipeline.errors import UserError

NEIGHBOURS = (10, 20, 100, 200)
TEMPERATURE = 0.07
_CHUNK = 1024  # test samples at a time: bounds the similarity matrix


class ClassMismatch(UserError):
    """Training and test set do not have the same classes."""


class Accuracy(NamedTuple):
    """Shares (0..1) of the test samples whose class has the most votes, and is among the five with the most votes."""

    top1: float
    top5: float


def knn_accuracy(
    train: LabelledFeatures,
    test: LabelledFeatures,
    neighbours: Sequence[int] = NEIGHBOURS,
    temperature: float = TEMPERATURE,
) -> dict[int, Accuracy]:
    """Accuracy per number of neighbours. A neighbour votes for its class with weight exp(cosine / `temperature`).

    Numbers above the size of the training set are left out, except the smallest number.

    Raises:
        ClassMismatch: the data sets have different classes.
        TooFewClasses: the data sets have fewer than two classes.
    """
    check_classes(train.classes, "the training set")
    if train.classes != test.classes:
        raise ClassMismatch(_difference(train.classes, test.classes))
    available = len(train.labels)
    chosen = [k for k in neighbours if k <= available] or [available]
    num_classes = len(train.classes)
    right = {k: [0, 0] for k in chosen}
    for start in range(0, len(test.labels), _CHUNK):
        features, labels = test.features[start : start + _CHUNK], test.labels[start : start + _CHUNK]
        similarity, index = (features @ train.features.T).topk(max(chosen), dim=1)  # [b, k], best first
        weights = ((similarity - similarity[:, :1]) / temperature).exp()  # of the nearest 1, at any temperature
        voted = train.labels[index]
        for k in chosen:
            votes = weights.new_zeros(len(labels), num_classes).scatter_add_(1, voted[:, :k], weights[:, :k])
            most, ranking = votes.topk(min(5, num_classes), dim=1)
            hit = (ranking == labels[:, None]) & (most > 0)  # a class without a vote is no answer
            right[k][0] += int(hit[:, 0].sum())
            right[k][1] += int(hit.sum())
    return {k: Accuracy(*(count / len(test.labels) for count in counts)) for k, counts in right.items()}


def _difference(train: tuple[str, ...], test: tuple[str, ...]) -> str:
    """A sentence that names the first class that differs."""
    number, (ours, theirs) = next(
        (number, pair) for number, pair in enumerate(zip_longest(train, test)) if pair[0] != pair[1]
    )
    forms = [unicodedata.normalize("NFC", name or "") for name in (ours, theirs)]
    hint = (
        "these are two Unicode forms of one name; build both with --nfc"
        if forms[0] == forms[1]
        else ("build both from the same data set, or the test set with --classes-of TRAIN")
    )
    return (
        f"the training set has {len(train)} classes and the test set {len(test)}; class {number} is {ours!a} in one "
        f"and {theirs!a} in the other: {hint}"
    )


def best(accuracy: dict[int, Accuracy]) -> int:
    """The number of neighbours with the highest top-1."""
    return max(accuracy, key=lambda k: accuracy[k].top1)
