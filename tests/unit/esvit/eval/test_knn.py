"""k-NN against a plain loop, and its protocol on features that leave no doubt."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import esvit.eval.knn
from esvit.eval.features import LabelledFeatures, TooFewClasses
from esvit.eval.knn import Accuracy, ClassMismatch, best, knn_accuracy

CLASSES = ("a", "b", "c")


def _features(rows: torch.Tensor, labels: list[int], classes: tuple[str, ...] = CLASSES) -> LabelledFeatures:
    return LabelledFeatures(F.normalize(rows, dim=1), torch.tensor(labels), classes)


def _plain_accuracy(train: LabelledFeatures, test: LabelledFeatures, k: int, temperature: float) -> Accuracy:
    top1 = top5 = 0
    for feature, label in zip(test.features, test.labels, strict=True):
        cosines = [float(feature @ other) for other in train.features]
        nearest = sorted(range(len(cosines)), key=lambda i: -cosines[i])[:k]
        votes: dict[int, float] = {}
        for i in nearest:
            votes[int(train.labels[i])] = votes.get(int(train.labels[i]), 0.0) + math.exp(cosines[i] / temperature)
        ranking = sorted(votes, key=lambda c: -votes[c])
        top1 += ranking[0] == int(label)
        top5 += int(label) in ranking[:5]
    return Accuracy(top1 / len(test.labels), top5 / len(test.labels))


@pytest.mark.parametrize("temperature", [0.07, 1.0])
@pytest.mark.parametrize("chunk", [1024, 7])
def test_it_equals_a_plain_loop(chunk: int, temperature: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(esvit.eval.knn, "_CHUNK", chunk)
    torch.manual_seed(0)
    classes = tuple("abcdefgh")
    train = _features(torch.randn(40, 8), [i % 8 for i in range(40)], classes)
    test = _features(torch.randn(25, 8), [i % 8 for i in range(25)], classes)
    expected = {k: _plain_accuracy(train, test, k, temperature) for k in (1, 3, 12, 20)}
    assert len({accuracy.top5 for accuracy in expected.values()}) > 2
    found = knn_accuracy(train, test, (1, 3, 12, 20), temperature)
    assert {k: tuple(a) for k, a in found.items()} == {k: pytest.approx(tuple(a)) for k, a in expected.items()}


@pytest.mark.parametrize("temperature", [1e-6, 1e6])
def test_a_vote_counts_at_any_temperature(temperature: float) -> None:
    train = _features(torch.tensor([[1.0, 0.0], [0.6, 0.8]]), [0, 1], ("a", "b"))
    test = _features(torch.tensor([[0.8, -0.6]]), [0], ("a", "b"))
    assert knn_accuracy(train, test, (2,), temperature) == {2: (1.0, 1.0)}


def test_votes_take_no_memory_per_class_and_neighbour() -> None:
    """200 neighbours of 2 images vote for 100,000 classes: 0.8 MB of votes, and not 320 MB."""
    num_classes, largest = 100_000, 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal largest
            result = func(*args, **(kwargs or {}))
            largest = max(largest, result.numel() if isinstance(result, torch.Tensor) else 0)
            return result

    train = _features(torch.randn(300, 4), list(range(300)), tuple(map(str, range(num_classes))))
    with Watch():
        knn_accuracy(train, LabelledFeatures(train.features[:2], train.labels[:2], train.classes), (200,))
    assert largest == 2 * num_classes


def test_well_separated_classes_are_all_recognised() -> None:
    train = _features(torch.eye(3).repeat(5, 1), [0, 1, 2] * 5)
    test = _features(torch.eye(3), [0, 1, 2])
    assert best(knn_accuracy(train, test, (1, 5))) == 1


def test_more_neighbours_than_samples_are_left_out() -> None:
    train = _features(torch.eye(3), [0, 1, 2])
    assert set(knn_accuracy(train, train, (2, 10))) == {2}
    assert set(knn_accuracy(train, train, (2, 3, 4))) == {2, 3}
    assert set(knn_accuracy(train, train, (10, 20))) == {3}


def test_other_classes_are_refused() -> None:
    train = _features(torch.eye(3), [0, 1, 2])
    other = _features(torch.eye(3), [0, 1, 2], ("x", "y", "z"))
    with pytest.raises(
        ClassMismatch, match=r"class 0 is 'a' in one and 'x' in the other: build both from the same data"
    ):
        knn_accuracy(train, other)
    fewer = _features(torch.eye(3), [0, 1, 1], ("a", "b"))
    with pytest.raises(
        ClassMismatch, match=r"3 classes and the test set 2; class 2 is 'c' in one and None .*--classes-of"
    ):
        knn_accuracy(train, fewer)
    composed = _features(torch.eye(3), [0, 1, 2], ("a", "b", "\u00e9"))
    decomposed = _features(torch.eye(3), [0, 1, 2], ("a", "b", "e\u0301"))
    with pytest.raises(ClassMismatch, match=r"'\\xe9' in one and 'e\\u0301' in the other: these are two Unicode forms"):
        knn_accuracy(composed, decomposed)


@pytest.mark.parametrize(("classes", "found"), [((), "no labels"), (("cat",), "one class, 'cat'")])
def test_fewer_than_two_classes_are_refused_for_every_answer_would_be_right(
    classes: tuple[str, ...], found: str
) -> None:
    train = _features(torch.eye(3), [0, 0, 0], classes)
    with pytest.raises(TooFewClasses, match=f"the training set has {found}; evaluation needs .* two classes"):
        knn_accuracy(train, train)
