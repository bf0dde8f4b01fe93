"""`python -m esvit.train`, as torchrun starts it. The run is `esvit.training`, its flags are `esvit.commands.train`."""

from esvit.commands.train import main

if __name__ == "__main__":
    main()
