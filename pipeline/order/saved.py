"""The saved state of a stream: what tells its order from others, and a position. Anything else is refused."""

from typing import Any

from pipeline.order.lanes import OrderError

_MAX_EPOCHS = 2**32  # the random numbers of more would begin again


def read_position(saved: Any, identity: dict[str, Any], num_steps: int) -> int:
    """The position in `saved`, a state of the order of this `identity` with epochs of `num_steps`.

    Raises:
        OrderError: it is the state of another order, or no state at all.
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
        raise OrderError(f"cannot resume: the state has a '{name}', which the state of a stream like this has not")
    return check_position(position, num_steps, "cannot resume: ")


def check_position(position: Any, num_steps: int, prefix: str = "") -> int:
    """The position, if it is one in epochs of `num_steps`; `prefix` is for the message.

    Raises:
        OrderError: it is not.
    """
    if type(position) is not int or not 0 <= position < _MAX_EPOCHS * num_steps:
        raise OrderError(
            f"{prefix}the position is {_short(position)}, which is not a number of steps: a whole number from "
            f"0 to {_MAX_EPOCHS * num_steps - 1}"
        )
    return position


def _get(saved: dict[Any, Any], name: str) -> Any:
    if name not in saved:
        raise OrderError(f"cannot resume: the state has no '{name}', so it is not the state of a stream like this")
    return saved[name]


def _short(value: Any) -> str:
    text = " ".join(repr(value).split()) if not isinstance(value, str) else value
    return text if len(text) <= 100 else f"{text[:100]}..."
