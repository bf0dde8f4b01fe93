"""`python -m esvit.train`, as torchrun starts it: the command `esvit-train`, whose flags are in `esvit.commands.train`.

In Python `esvit.train` is a function, `esvit.training.api.train`. Importing this module replaces that function under
the name `esvit.train`. So the module can be called like the function.
"""

import sys
from types import ModuleType
from typing import Any

from esvit.commands.train import main


class _Callable(ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> None:
        from esvit.training.api import train

        train(*args, **kwargs)


if __name__ == "__main__":
    main()
else:
    sys.modules[__name__].__class__ = _Callable
