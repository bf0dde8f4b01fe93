"""The user's own backbone, head or loss, named in a config by its class path: `my_package.my_module:MyBackbone`.

The user wrote the config, so its paths are imported. A checkpoint may come from elsewhere and must not choose what is
imported: its paths are imported only from modules that the user allowed by name.
"""

import importlib
import inspect
import re
from collections.abc import Iterable
from typing import Any, TypeVar

from pipeline.errors import UserError
from pipeline.nearest import did_you_mean, nearest

T = TypeVar("T")
_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


class OwnPartError(UserError):
    """A class named by its path cannot be imported, or is of the wrong kind."""


def is_path(name: str) -> bool:
    """Whether `name` is a path, `package.module:Class`, and not the name of a built-in part."""
    return bool(_PATH.fullmatch(name))


def check_name(name: str, ours: Iterable[str]) -> str:
    """`name`, if it is one of `ours` or a path.

    Raises:
        ValueError: `name` is neither.
    """
    known = list(ours)
    if name in known or is_path(name):
        return name
    suggestion = did_you_mean(nearest(name, known))
    raise ValueError(f"there is no '{name}'; choose one of {', '.join(known)}, or package.module:Class{suggestion}")


def load_class(path: str, base: type[T]) -> type[T]:
    """Import the class at `path`.

    Raises:
        OwnPartError: there is no such module or class, or the class is no subclass of `base`.
    """
    module_name, _, name = path.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        hint = "; install it, or add its folder to PYTHONPATH" if isinstance(error, ModuleNotFoundError) else ""
        raise OwnPartError(f"cannot import {path}: {error}{hint}") from None
    found = getattr(module, name, None)
    if found is None:
        raise OwnPartError(f"{module_name} has no {name}{did_you_mean(nearest(name, vars(module)))}")
    if not (isinstance(found, type) and issubclass(found, base)):
        raise OwnPartError(f"{path} must be a subclass of {base.__module__}.{base.__name__}")
    return found


def build(path: str, base: type[T], *args: Any, **kwargs: Any) -> T:
    """An instance of the class at `path`.

    Raises:
        OwnPartError: see `load_class`; or the class does not take these arguments.
    """
    own = load_class(path, base)
    if missing := sorted(getattr(own, "__abstractmethods__", ())):
        raise OwnPartError(f"{path} must define {', '.join(missing)}, as every {base.__name__} does")
    try:
        inspect.signature(own).bind(*args, **kwargs)
    except TypeError as error:
        raise OwnPartError(f"{path} cannot be built: {error}") from None
    return own(*args, **kwargs)


def check_allowed(name: str, allowed: Iterable[str]) -> None:
    """Refuse a path from a checkpoint unless `allowed` has its module or a package around the module.

    Raises:
        OwnPartError: the path is refused.
    """
    module = name.partition(":")[0]
    if is_path(name) and not any(module == word or module.startswith(f"{word}.") for word in allowed):
        raise OwnPartError(
            f"the checkpoint names {name}, which is not part of esvit; if you trust it, add --allow-import {module}"
        )
