"""`python -m tools.shard_builder` runs the console script `shard-builder`."""

from tools.shard_builder.cli import main

if __name__ == "__main__":
    main()
