"""The other commands of `pipeline-bench`: its first word, where that is one of these."""

from collections.abc import Callable

from pipeline.bench import clients, shuffle, soak, stream

SUBCOMMANDS: dict[str, Callable[[list[str]], None]] = {
    "stream": stream.main,  # the stream against the ceiling
    "clients": clients.main,  # clients of S3 against each other
    "shuffle": shuffle.main,  # how well the order mixes
    "soak": soak.main,  # memory and open files over time
}


def run_subcommand(words: list[str]) -> bool:
    """Run the subcommand that `words` begin with; False where they begin with none."""
    main = SUBCOMMANDS.get(words[0]) if words else None
    if main:
        main(words[1:])
    return main is not None
