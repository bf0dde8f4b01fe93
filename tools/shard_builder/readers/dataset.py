"""A row of the table of data sets, and the check of a source against the published numbers."""

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
    """The facts about a data set, or about a format that can hold any data set."""

    name: str
    use: Use
    read: Callable[[Path, str, ReadOptions], Reader]
    """Makes the reader from source folder, split and options."""
    layout: str
    """The layout of the source folder, for people; alternatives are separated by `or`."""
    page: str = ""
    """Web page of its licence or terms."""
    num_classes: int | None = None
    num_images: Mapping[str, int] = field(default_factory=dict)
    """Published number of images per split; empty if any split and any number is accepted."""
    metric: Metric | None = None
    suites: tuple[Suite, ...] = ()
    """The benchmarks that contain a transfer set: ELEVATER's 20, or the 18 of the EsViT paper (CLIP's)."""
    has_columns: bool = False
    """Whether the source is a table, which may have several columns of labels."""

    def open(self, source: Path, split: str, *, allow_subset: bool = False, options: ReadOptions = AS_IT_IS) -> Reader:
        """The reader of one split. Classes are checked at once, images are counted while they are listed.

        With `allow_subset` classes and images may be missing, but no class may be unknown.

        Raises:
            SourceError: there is no such split, or the source has another layout. While the reader lists images: their
                number differs from the published one.
        """
        if address := re.match(r"([A-Za-z][A-Za-z0-9+.-]+):/+(.*)", str(source)):
            url = f"{address[1]}://{address[2]}"
            raise SourceError(
                f"cannot read source {url}: a source must be a local folder or file; download or mount it first"
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
                raise SourceError(f"{source} has {unknown[0]!r}, which is no class of {self.name}{_more(unknown)}")
            if missing and not allow_subset:
                raise SourceError(
                    f"{source} lacks the class {missing[0]!r} of {self.name}{_more(missing)}; "
                    "complete it, or pass --allow-subset"
                )
        elif self.num_classes is not None:
            self._check_number(f"{source} has {len(found):,} classes of", len(found), self.num_classes, allow_subset)

    def _counted(self, seen: Iterator[Seen], source: Path, split: str, allow_subset: bool) -> Iterator[Seen]:
        found = 0
        for item in seen:
            yield item
            found += not isinstance(item, Other)
        self._check_number(f"{source} has {found:,} {split} images of", found, self.num_images[split], allow_subset)

    def _check_number(self, has: str, found: int, published: int, allow_subset: bool) -> None:
        if found > published:
            raise SourceError(f"{has} {self.name}, published are {published:,}: something else lies among them")
        if found < published and not allow_subset:
            raise SourceError(f"{has} {self.name}, published are {published:,}; complete it, or pass --allow-subset")


def _more(names: list[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""
