"""The saved state of a stream: the identity of its order, and a position. Anything else is refused."""

from typing import Any

from pipeline.order.lanes import OrderError

_MAX_EPOCHS = 2**32  # after more epochs the random numbers would repeat


def read_position(saved: Any, identity: dict[str, Any], num_steps: int) -> int:
    """The position in `saved`, the state of an order with this `identity` and epochs of `num_steps`.

    Raises:
        OrderError: `saved` is the state of another order, or not a state.
    """
    if not isinstance(saved, dict):
        raise OrderError(f"cannot resume: {_short(saved)} is not the state of a stream, which is a dict")
    for name, ours in identity.items():
        theirs = _get(saved, name)
        if type(theirs) is not type(ours) or theirs != ours:
            raise OrderError(
                f"cannot resume: {name.replace('_', ' ')} was {_short(theirs)} in the checkpoint and is {ours} now, "
                "so the order of the samples would change; use the former setting or start a new run"
            )
    position = _get(saved, "position")
    if unknown := saved.keys() - {*identity, "position"}:
        name = min(map(str, unknown))
        raise OrderError(f"cannot resume: the state has an unknown '{name}', so it is not the state of such a stream")
    return check_position(position, num_steps, "cannot resume: ")


def check_position(position: Any, num_steps: int, prefix: str = "") -> int:
    """Check a position in a run with epochs of `num_steps`, and return it; `prefix` is for the message.

    Raises:
        OrderError: it is not a number of steps.
    """
    if type(position) is not int or not 0 <= position < _MAX_EPOCHS * num_steps:
        raise OrderError(
            f"{prefix}the position is {_short(position)}, which is not a number of steps: a whole number from "
            f"0 to {_MAX_EPOCHS * num_steps - 1}"
        )
    return position


def _get(saved: dict[Any, Any], name: str) -> Any:
    if name not in saved:
        raise OrderError(f"cannot resume: the state has no '{name}', so it is not the state of such a stream")
    return saved[name]


def _short(value: Any) -> str:
    text = " ".join(repr(value).split()) if not isinstance(value, str) else value
    return text if len(text) <= 100 else f"{text[:100]}..."
