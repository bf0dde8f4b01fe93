"""Output memory is used again, and never while anybody can still see it."""

import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from pipeline.augment.executor import empty_stack
from pipeline.buffers import BufferPool

SHAPE = (2, 3, 4, 5, 3)


@pytest.fixture
def pool() -> Iterator[BufferPool]:
    yield BufferPool()


def test_memory_that_nobody_refers_to_is_handed_out_again(pool: BufferPool) -> None:
    first = empty_stack(pool, SHAPE, torch.float32)
    place = first.data_ptr()
    del first
    assert empty_stack(pool, SHAPE, torch.float32).data_ptr() == place


@pytest.mark.parametrize(
    "keep",
    [
        lambda t: t,
        lambda t: t[1, 2],
        lambda t: t.permute(0, 1, 4, 2, 3).flatten(0, 1),
        lambda t: t.numpy()[0],
        lambda t: torch.utils.dlpack.from_dlpack(t.detach()),
        lambda t: t.untyped_storage(),
        lambda t: np.frombuffer(memoryview(t.numpy())[1:]),
    ],
    ids=["itself", "a view", "a view of a view", "numpy", "dlpack", "storage", "memoryview"],
)
def test_whatever_is_kept_of_a_tensor_keeps_its_memory(pool: BufferPool, keep: object) -> None:
    kept = keep(empty_stack(pool, SHAPE, torch.float32))  # type: ignore[operator]
    place = kept.ctypes.data if hasattr(kept, "ctypes") else kept.data_ptr()
    others = [empty_stack(pool, SHAPE, torch.float32) for _ in range(3)]
    for other in others:
        begin = other.data_ptr()
        assert not begin <= place < begin + other.nbytes


def test_types_and_shapes_do_not_mix(pool: BufferPool) -> None:
    for dtype in (torch.float32, torch.float16, torch.uint8):
        for shape in (SHAPE, (2, 3, 6, 6, 3)):
            tensor = empty_stack(pool, shape, dtype)
            assert tensor.shape == shape and tensor.dtype == dtype


def test_an_earlier_batch_size_leaves_nothing_behind(pool: BufferPool) -> None:
    empty_stack(pool, SHAPE, torch.uint8)
    empty_stack(pool, (2, 8, 4, 5, 3), torch.uint8)
    assert [array.shape[1] for array in pool._arrays] == [8]


def test_threads_do_not_share_a_buffer(pool: BufferPool) -> None:
    wrong = []

    def work(value: int) -> None:
        for _ in range(300):
            mine = empty_stack(pool, SHAPE, torch.uint8).fill_(value)
            if not (mine == value).all():
                wrong.append(value)

    threads = [threading.Thread(target=work, args=(value,)) for value in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
