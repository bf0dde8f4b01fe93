"""The reference of every key of a training config in docs/config.md, generated from the code.

python -m esvit.training.config_reference docs/config.md     writes the reference between two marks in that page
"""

import sys
from collections.abc import Iterator
from pathlib import Path

from esvit.training.config import TrainConfig
from pipeline.config.keys import Key, first_words, keys_of

BEGIN = "<!-- every key: made by `python -m esvit.training.config_reference docs/config.md` -->\n"
END = "<!-- end of every key -->\n"


def tables() -> str:
    """A table per section, in the order of the config."""
    sections: dict[str, list[Key]] = {}
    headings = {"": first_words(TrainConfig)}
    for key in keys_of(TrainConfig):
        sections.setdefault(key.name.rpartition(".")[0], []).append(key)
        if key.section is not None:
            headings[key.name] = headings[f"{key.name}[]"] = first_words(key.section)
    return "\n".join(line for name, keys in sections.items() for line in _table(name, headings[name], keys)) + "\n"


def written(page: str) -> str:
    """`page` with the tables between its marks."""
    before, rest = page.split(BEGIN)
    return f"{before}{BEGIN}\n{tables()}\n{END}{rest.split(END)[1]}"


def _table(name: str, meaning: str, keys: list[Key]) -> Iterator[str]:
    yield f"### `{name}`" if name else "### The run itself"
    yield ""
    yield f"{meaning}\n"
    yield "| key | type | unit | default | meaning |"
    yield "|---|---|---|---|---|"
    for key in keys:
        default = f"`{key.default}`" if key.has_value else key.default
        cells = (f"`{key.name}`", key.kind, key.unit, default, key.meaning)
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
    yield ""


def main() -> None:
    """Write the reference into the page named on the command line."""
    page = Path(sys.argv[1])
    page.write_text(written(page.read_text()))


if __name__ == "__main__":
    main()
