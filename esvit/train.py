"""`python -m esvit.train`, as torchrun starts it: the command `esvit-train`, whose flags are in `esvit.commands.train`.

In Python `esvit.train` is a function, that of `esvit.api`. Once something has imported this module, it stands where the
function was; so it can be called like it.
"""

import sys
from types import ModuleType
from typing import Any

from esvit.commands.train import main


class _Callable(ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> None:
        from esvit.api import train

        train(*args, **kwargs)


if __name__ == "__main__":
    main()
else:
    sys.modules[__name__].__class__ = _Callable
