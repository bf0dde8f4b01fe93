"""Random sources of images, realistic and damaged; the same seed gives the same source.

Each maker writes a source below a folder and returns the arguments and expected counts of a build. The counts do not
come from our readers but from the file system, `csv`, `tarfile` and `zipfile`.
"""

import csv
import io
import json
import os
import random
import socket
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from support.shards import encode, picture

SYSTEM = {".DS_Store", "Thumbs.db", "desktop.ini", "@eaDir", "__MACOSX"}
_IMAGES = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
_PICTURES = [picture(seed, 8 + seed, 9) for seed in range(4)]
_KINDS = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP", "bmp": "BMP", "gif": "GIF", "tif": "TIFF"}
FILES = {ext: [encode(image, kind) for image in _PICTURES] for ext, kind in _KINDS.items()}
LABELS = ["0", "1", "2", "7", "000", "001", "2.0", "2.5", "-1", "٣", "1_000", "999999999999", "", "nan", "None", "cat",
          "dög", "do\u0308g", "a\nb", "a\0b", "1e3", "+1", " 3 ", "NA", "x" * 5000]  # fmt: skip
NAMES = ["a", "b", "v1.0", "IMG (1)", "ä", "a\u0308", "中", "..", ".hidden", "x" * 90, "nul\0", "new\nline", "a,b",
         '"q"', "-rf", b"\xff\xe9".decode("utf-8", "surrogateescape"), "._a", "Thumbs"]  # fmt: skip


class Request(NamedTuple):
    """Arguments of a build, and its expected counts."""

    dataset: str
    source: Path
    num_images: Callable[[], int]
    """Samples and rejects together."""
    num_others: Callable[[], int] | None = None
    """Expected files left out; None: not counted here."""


def is_image(name: str) -> bool:
    """Whether the suffix is an image's."""
    return os.path.splitext(name)[1].lower() in _IMAGES


def damaged(rng: random.Random, data: bytes) -> bytes:
    """`data` with bytes flipped, cut off or inserted."""
    content = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 8])):
        place = rng.randrange(len(content) + 1)
        match rng.randrange(4):
            case 0 if place < len(content):
                content[place] ^= 1 << rng.randrange(8)
            case 1:
                del content[place : place + rng.choice([1, 3, 600])]
            case 2:
                content[place:place] = rng.choice([b"\0", b'"', b"\xff", b"\n", b",", b"9" * 5000, b"{", b"[" * 3000])
            case _:
                del content[place:]
    return bytes(content)


def _image(rng: random.Random) -> tuple[str, bytes]:
    """A suffix and the content of a file: mostly an image of that format."""
    ext = rng.choice(["jpg", "jpg", "jpg", "png", "webp", "bmp", "gif", "tif"])
    data = rng.choice(FILES[ext])
    match rng.randrange(12):
        case 0:
            data = damaged(rng, data)
        case 1:
            data = b""
        case 2:
            ext = rng.choice(["JPG", "jpeg", "jpe", "jfif", "tiff", "png"])
        case _:
            pass
    return ext, data


def folder(root: Path, rng: random.Random) -> Request:
    """Class folders with odd files, links, pipes and sockets among them."""
    source = root / "images"
    top = source / rng.choice(["train"] * 9 + [""] * 4 + ["val"])
    for name in rng.sample(["ant", "bee", "dög", "do\u0308g", "@eaDir", ".git", "empty"], rng.randrange(1, 5)):
        deep = top / name / rng.choice(["", "", "x/y"])
        deep.mkdir(parents=True, exist_ok=True)
        for _ in range(rng.randrange(4)):
            _odd_file(deep, rng)
    for _ in range(rng.choice([0, 0, 1])):
        _odd_file(top, rng)
    base = source / "train" if (source / "train").is_dir() else source

    def found() -> list[tuple[str, bool]]:
        """The files there, and whether each is an image."""
        every = []
        for place, folders, files in os.walk(base):
            folders[:] = [name for name in folders if name not in SYSTEM]
            links = [name for name in folders if os.path.islink(os.path.join(place, name))]
            every += [(name, False) for name in links if not name.startswith("._")]
            every += [(n, is_image(n)) for n in files if n not in SYSTEM and not n.startswith("._")]
        return every

    return Request(
        "image-folder",
        source,
        lambda: sum(image for _, image in found()),
        lambda: sum(not image for _, image in found()),
    )


def _odd_file(place: Path, rng: random.Random) -> None:
    ext, data = _image(rng)
    stem = rng.choice([f"i{rng.randrange(99)}"] * 4 + NAMES).replace("\0", "0").replace("..", "dots")
    path = place / f"{stem}.{ext}"
    if path.exists() or path.is_symlink():
        return
    match rng.randrange(30):
        case 0:
            os.mkfifo(path)
        case 1 if len(os.fsencode(path)) < 100:
            with socket.socket(socket.AF_UNIX) as server:
                server.bind(os.fsencode(path))
        case 2:
            path.symlink_to(rng.choice(["..", "..", __file__, __file__, "nowhere", str(path)]))
        case 3:
            path.with_suffix(rng.choice([".txt", ".xml", ".npy", ""])).write_bytes(damaged(rng, b"x" * 9))
        case 4:
            (place / rng.choice(sorted(SYSTEM - {"@eaDir", "__MACOSX"}))).write_bytes(data)
        case 5:
            (place / "loop").symlink_to(place) if not (place / "loop").is_symlink() else None
        case _:
            path.write_bytes(data)


def table_csv(root: Path, rng: random.Random) -> Request:
    """A list of images with odd labels, odd paths and damaged text."""
    paths = []
    for number in range(rng.randrange(1, 6)):
        ext, data = _image(rng)
        (root / f"{number}.{ext}").write_bytes(data)
        paths.append(f"{number}.{ext}")
    labels = rng.choice([["ant", "bee"], ["0", "1"], ["000", "001"], ["2.0", "7"], LABELS])
    rows: list[list[Any]] = [[path, rng.choice(labels), "caption"] for path in paths]
    for _ in range(rng.choice([0] * 6 + [1])):
        rows.append([rng.choice([*NAMES, "", "/", "/dev/zero", "s3://b/x.jpg", *paths]), rng.choice(labels), ""])
    header = [rng.choice(["path"] * 19 + ["file"]), rng.choice(["label"] * 9 + ["labels", "Target", "species"]), "text"]
    text = io.StringIO()
    writer = csv.writer(
        text, delimiter=rng.choice("," * 19 + ";"), quoting=rng.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
    )
    writer.writerows([header, *rows])
    data = text.getvalue().encode(rng.choice(["utf-8"] * 9 + ["utf-8-sig", "latin-1", "utf-16"]), "replace")
    (root / "train.csv").write_bytes(damaged(rng, data) if rng.random() < 0.3 else data)

    def num_images() -> int:
        with open(root / "train.csv", newline="", encoding="utf-8-sig") as file:
            return sum(bool(row) for row in csv.reader(file)) - 1

    return Request("image-list", root, num_images)


def table_parquet(root: Path, rng: random.Random) -> Request:
    """Tables with images, labels of any type, nulls, and damaged files."""
    label_type = rng.choice(
        [pa.int64(), pa.float64(), pa.string(), pa.list_(pa.int64()), pa.bool_(), pa.null(), pa.int8()]
    )
    for part in range(rng.randrange(1, 3)):
        size = rng.randrange(1, 5)
        files: list[Any] = [_image(rng)[1] if rng.random() < 0.9 else None for _ in range(size)]
        columns: dict[str, Any] = {
            rng.choice(["image"] * 9 + ["img", "photo"]): rng.choice(
                [pa.array(files, pa.binary()), pa.array([{"bytes": data, "path": None} for data in files])]
            ),
            rng.choice(["label"] * 7 + ["labels", "fine_label", "species"]): pa.array(
                [_cell(label_type, rng) for _ in range(size)], label_type
            ),
            "score": pa.array([float("nan")] * size),
        }
        table = pa.table(columns)
        if rng.random() < 0.2:
            features = {"label": {"names": rng.choice([["a", "b"], "ab", None]), "_type": "ClassLabel"}}
            table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
        path = root / f"train-{part}.parquet"
        pq.write_table(table, path, row_group_size=rng.choice([1, 2, 99]))
        if rng.random() < 0.15:
            path.write_bytes(damaged(rng, path.read_bytes()))
    return Request("parquet", root, lambda: sum(pq.ParquetFile(p).metadata.num_rows for p in root.glob("*.parquet")))


def _cell(kind: pa.DataType, rng: random.Random) -> Any:
    if kind == pa.null() or rng.random() < 0.03:
        return None
    if pa.types.is_list(kind):
        return rng.choice([[], [0], [0, 2], [2, 2], [-1], [None]])
    if kind == pa.string():
        return rng.choice(["ant", "bee"] * 49 + LABELS)
    if kind == pa.float64():
        return rng.choice([0.0, 1.0, 2.0] * 9 + [2.5, -1.0, float("nan"), float("inf"), 1e18])
    return bool(rng.randrange(2)) if kind == pa.bool_() else rng.choice([0, 1, 2] * 9 + [-1, 100])


def tar(root: Path, rng: random.Random) -> Request:
    """webdataset tars with odd keys, labels, links and order, damaged, compressed, or no tars at all."""
    with_labels = rng.choice([True, True, False])
    for number in range(rng.randrange(1, 3)):
        members: list[tuple[str, bytes | str]] = []
        for i in range(rng.randrange(1, 5)):
            key, (ext, data) = rng.choice([f"{number}/s{i}"] * 30 + NAMES), _image(rng)
            members += [(f"{key}.cls", str(rng.randrange(3)).encode())] if with_labels and rng.random() < 0.97 else []
            members.append((f"{key}.{ext}", data))
            match rng.randrange(12):
                case 0:
                    members.append((f"{key}.seg.png", FILES["png"][0]))
                case 1:
                    members.append((f"{key}.json", rng.choice([b"{", b"[]", b'{"label": 7}', b'{"labels": [1, "x"]}'])))
                case 2:
                    members.append((f"{key}.png", rng.choice(["a.jpg", "nowhere"])))
                case 3:
                    members.append((rng.choice(["README", ".DS_Store", "x/._a.jpg", "d.txt"]), b"text"))
                case _:
                    pass
        if rng.random() < 0.1:
            rng.shuffle(members)
        path = root / f"{rng.choice(['train-'] * 12 + ['', 'val-'])}{number}.tar"
        mode = rng.choice(["w"] * 14 + ["w:gz"])
        path = path if mode == "w" else path.with_suffix(".tar.gz")
        data = _tar_bytes(members, mode, rng)
        path.write_bytes(damaged(rng, data) if rng.random() < 0.2 else data)
    if rng.random() < 0.05:
        os.mkfifo(root / "train-9.tar")
    train = sorted(p.name for p in root.iterdir() if "train" in p.name and p.is_file())
    names = train or sorted(p.name for p in root.iterdir() if p.is_file())

    def num_images() -> int:
        lost = sum(name.endswith(".gz") for name in names)
        for name in names:
            if name.endswith(".tar"):
                with tarfile.open(root / name, "r:") as file:
                    found = [m.name for m in file if not m.isdir() and "._" not in m.name]
                lost += sum(is_image(name) for name in found)
        return lost

    return Request("webdataset", root, num_images)


def _tar_bytes(members: list[tuple[str, bytes | str]], mode: str, rng: random.Random) -> bytes:
    buffer = io.BytesIO()
    kind = rng.choice([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
    with tarfile.open(fileobj=buffer, mode=mode, format=kind) as file:  # type: ignore[call-overload]
        for name, content in members:
            info = tarfile.TarInfo(name.replace("\0", "0"))
            if isinstance(content, str):
                info.type, info.linkname = rng.choice([tarfile.SYMTYPE, tarfile.LNKTYPE]), content
                file.addfile(info)
            else:
                info.size = len(content)
                file.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def zipped(root: Path, rng: random.Random) -> Request:
    """The original EsViT's zip and map, damaged."""
    buffer, rows = io.BytesIO(), []
    with zipfile.ZipFile(
        buffer, "w", rng.choice([zipfile.ZIP_STORED] * 5 + [zipfile.ZIP_DEFLATED] * 5 + [zipfile.ZIP_BZIP2])
    ) as file:
        for i in range(rng.randrange(1, 6)):
            ext, data = _image(rng)
            name = f"{rng.choice(['ant', 'bee'])}/{i}.{ext}"
            file.writestr(name, data)
            if rng.random() < 0.9:
                rows.append(f"{name}\t{rng.choice(['0', '1', '2'] * 50 + LABELS)}\n")
    rows += [rng.choice(["gone.jpg\t0\n", "no tab\n", *rows])] if rng.random() < 0.1 and rows else []
    content, text = buffer.getvalue(), "".join(rows).encode()
    (root / "train.zip").write_bytes(damaged(rng, content) if rng.random() < 0.3 else content)
    (root / "train_map.txt").write_bytes(damaged(rng, text) if rng.random() < 0.2 else text)

    def listed() -> list[str]:
        lines = (root / "train_map.txt").read_text("utf-8-sig").split("\n")
        return [line for line in lines if line.strip()]

    def num_others() -> int:
        with zipfile.ZipFile(root / "train.zip") as file:
            return len(set(file.namelist())) - len(listed())

    return Request("esvit-zip", root, lambda: len(listed()), num_others)


MAKERS: dict[str, Callable[[Path, random.Random], Request]] = {
    "folder": folder,
    "csv": table_csv,
    "parquet": table_parquet,
    "tar": tar,
    "zip": zipped,
}
