"""A row of the catalogue, and the check of what a reader found against what was published."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tools.shard_builder.readers.base import Listing, Other, Reader, ReadOptions, Seen, SourceError
from tools.shard_builder.readers.class_list import with_checked_labels, with_class_names
from tools.shard_builder.readers.layout import class_names

Metric = Literal["accuracy", "mean-per-class", "roc-auc", "11-point-map"]
Use = Literal["format", "pre-training", "transfer"]
Suite = Literal["elevater", "clip-18"]
AS_IT_IS = ReadOptions()


@dataclass(frozen=True)
class Dataset:
    """What the shard builder knows of a data set, or of a format that holds any."""

    name: str
    use: Use
    read: Callable[[Path, str, ReadOptions], Reader]
    """Of the source folder, the split and the options."""
    layout: str
    """What the source folder holds, for people; alternatives are separated by `or`."""
    page: str = ""
    """Where its licence or terms stand."""
    num_classes: int | None = None
    num_images: Mapping[str, int] = field(default_factory=dict)
    """Published, of each split; empty where any split and any number will do."""
    metric: Metric | None = None
    suites: tuple[Suite, ...] = ()
    """The benchmarks that a transfer set is part of: ELEVATER's 20, or the 18 of the EsViT paper (CLIP's)."""
    has_columns: bool = False
    """Whether it is a table, which may have more than one column of labels."""

    def open(self, source: Path, split: str, *, allow_subset: bool = False, options: ReadOptions = AS_IT_IS) -> Reader:
        """The reader of one split, which checks classes at once and counts images while they are listed.

        With `allow_subset` some classes and images may be missing, but none may be unknown.

        Raises:
            SourceError: there is no such split, or the source is not laid out as expected; from the reader's
                records also that their number is not the published one.
        """
        if address := re.match(r"([A-Za-z][A-Za-z0-9+.-]+):/+(.*)", str(source)):
            url = f"{address[1]}://{address[2]}"
            raise SourceError(
                f"cannot read source {url}: a source is a local folder or file; download or mount it first"
            )
        if not source.exists():
            raise SourceError(f"cannot read source {source}: there is no such file or folder")
        if self.num_images and split not in self.num_images:
            raise SourceError(f"{self.name} has the splits {', '.join(self.num_images)}, not {split!r}")
        if options.label_column and not self.has_columns:
            raise SourceError(f"{self.name} has no columns: --label-column is for tables (image-list, parquet)")
        if options.unlabelled and (options.label_column or options.class_list is not None):
            raise SourceError("--unlabelled takes no labels: leave out --label-column and --classes-of")
        reader = self.read(source, split, options)
        if reader.classes and self.num_images:
            self._check_classes(reader.classes, source, allow_subset)
        reader = with_checked_labels(with_class_names(reader, source, options))
        if not self.num_images:
            return reader
        return Listing(reader.classes, lambda: self._counted(reader.seen(), source, split, allow_subset), reader.notes)

    def _check_classes(self, found: tuple[str, ...], source: Path, allow_subset: bool) -> None:
        published = class_names(self.name)
        if published is not None:
            unknown, missing = sorted(set(found) - set(published)), sorted(set(published) - set(found))
            if unknown:
                raise SourceError(f"{source} holds {unknown[0]!r}, which is no class of {self.name}{_more(unknown)}")
            if missing and not allow_subset:
                raise SourceError(
                    f"{source} lacks the class {missing[0]!r} of {self.name}{_more(missing)}; "
                    "complete it, or pass --allow-subset"
                )
        elif self.num_classes is not None:
            self._check_number(f"{source} holds {len(found):,} classes of", len(found), self.num_classes, allow_subset)

    def _counted(self, seen: Iterator[Seen], source: Path, split: str, allow_subset: bool) -> Iterator[Seen]:
        found = 0
        for item in seen:
            yield item
            found += not isinstance(item, Other)
        self._check_number(f"{source} holds {found:,} {split} images of", found, self.num_images[split], allow_subset)

    def _check_number(self, holds: str, found: int, published: int, allow_subset: bool) -> None:
        if found > published:
            raise SourceError(f"{holds} {self.name}, published are {published:,}: something else lies among them")
        if found < published and not allow_subset:
            raise SourceError(f"{holds} {self.name}, published are {published:,}; complete it, or pass --allow-subset")


def _more(names: list[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""
