"""`python -m esvit.evaluate`, as torchrun starts it. The protocols are in `esvit.evaluation`."""

from esvit.commands.evaluate import main

if __name__ == "__main__":
    main()
