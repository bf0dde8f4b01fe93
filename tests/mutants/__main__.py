"""Mutation testing: does a test fail for every change of the product that matters? `make mutants [SAMPLE=30]`.

Why not an existing tool: mutmut runs here, but makes 398 mutants of the three files of `pipeline/order` alone (the six
survivors were messages and `strict=`), and skips decorated functions; cosmic-ray starts a Python that imports torch for
each mutant. So a table lists the changes (`mutants.table`), and every statement of the training step is deleted once
(`mutants.deletions`).
"""

import argparse
import random
import sys
import tempfile
from collections import Counter
from pathlib import Path

from mutants.mutant import Mutant
from mutants.table import all_mutants
from mutants.workers import Verdict, baselines, open_pool, verdicts


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make mutants", description="Run the tests on every mutant of the product.")
    parser.add_argument("--sample", type=int, default=0, metavar="N", help="a fixed sample of N, for CI (0: all)")
    parser.add_argument("--only", default="", metavar="TEXT", help="mutants whose description contains TEXT")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="mutants at once (2)")
    parser.add_argument("--list", action="store_true", help="list the mutants and run none")
    return parser.parse_args()


def main() -> int:
    """Run them and report; 1 if a mutant survives without a reason."""
    arguments = _arguments()
    mutants = [mutant for mutant in all_mutants() if arguments.only in str(mutant)]
    if arguments.sample:
        mutants = random.Random(0).sample(mutants, min(arguments.sample, len(mutants)))
    if arguments.list:
        sys.stdout.writelines(f"{mutant}\n" for mutant in mutants)
        return 0
    outcomes: dict[Mutant, Verdict] = {}
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder, open_pool(arguments.workers, Path(folder)) as pool:
        seconds = baselines(pool, mutants)
        for mutant, verdict in verdicts(pool, mutants, seconds):
            outcomes[mutant] = verdict
            sys.stdout.write(f"{verdict.outcome:8} {verdict.seconds:5.1f} s  {mutant}\n")
            sys.stdout.flush()
    return _report({mutant: outcomes[mutant] for mutant in mutants})


def _report(outcomes: dict[Mutant, Verdict]) -> int:
    """Print one line per file, the survivors with their reasons, and all errors."""
    made = Counter(mutant.file for mutant in outcomes)
    survived = Counter(mutant.file for mutant, verdict in outcomes.items() if verdict.outcome == "survived")
    sys.stdout.write("\n made  killed  survived  file\n")
    sys.stdout.writelines(
        f"{made[file]:5} {made[file] - survived[file]:7} {survived[file]:9}  {file}\n" for file in sorted(made)
    )
    sys.stdout.write(f"{made.total():5} {made.total() - survived.total():7} {survived.total():9}  in all\n\n")
    wrong = 0
    for mutant, verdict in outcomes.items():
        if verdict.outcome == "survived":
            sys.stdout.write(f"survived: {mutant}\n  {mutant.survives or 'NO REASON: no test turns red'}\n")
            wrong += not mutant.survives
        elif mutant.survives:
            sys.stdout.write(f"killed, though it is said to survive: {mutant}\n")
            wrong += 1
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
