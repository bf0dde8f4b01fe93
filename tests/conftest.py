"""Fixtures of all tests: generated images, real images, and a real S3 server."""

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tarfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from PIL import Image

# Before anything imports torch: threads of tiny networks wait for each other longer than they work, above all where
# other tests' processes want the same cores. What measures or tests threads sets their number itself.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A busy machine is no failure. In CI, Hypothesis takes the same examples every time.
settings.register_profile("unhurried", parent=settings(), deadline=None)
settings.load_profile("unhurried")

REPOSITORY = Path(__file__).resolve().parents[1]
BUCKET = "bucket"


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Python's own answer to SIGINT. A job in the background of a shell inherits that it is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not have its checksum is read again at once."""
    monkeypatch.setattr("pipeline.shards.verified._PAUSES_S", (0, 0))


def smooth_image(rng: np.random.Generator, height: int, width: int) -> Image.Image:
    """Random content without noise, so that codecs and resizers behave as on photographs. RGB."""
    coarse = rng.integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture
def tiny_image_folder(tmp_path: Path) -> Path:
    """`<folder>/train/<class>/<file>`: 3 classes of 12 JPEGs of many sizes, one grayscale, and one PNG."""
    return write_tiny_images(tmp_path / "tiny")


def write_tiny_images(root: Path) -> Path:
    """The images of `tiny_image_folder`, in `root`."""
    rng = np.random.default_rng(0)
    for name in ("ant", "bee", "cat"):
        folder = root / "train" / name
        folder.mkdir(parents=True)
        for number in range(12):
            height, width = (int(side) for side in rng.integers(24, 97, 2))
            smooth_image(rng, height, width).save(folder / f"{name}_{number:02d}.jpg", quality=90)
    smooth_image(rng, 40, 50).convert("L").save(root / "train/ant/ant_00.jpg")
    (root / "train/bee/bee_11.jpg").unlink()
    smooth_image(rng, 33, 44).save(root / "train/bee/bee_11.png")
    return root


@pytest.fixture(scope="session")
def imagenet_sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """600 photographs of ImageNet as `<folder>/train/<wnid>/<file>.JPEG`."""
    return _unpack("imagenet-sample", tmp_path_factory)


@pytest.fixture(scope="session")
def cifar10_subset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12,000 images of CIFAR-10 as `<folder>/{train,test}/<class>/<file>.jpg`."""
    return _unpack("cifar10-subset", tmp_path_factory)


def _unpack(name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = Path(os.environ.get("ESVIT_TEST_DATA", REPOSITORY / "../shared/data"))
    archive = data / f"{name}.tar"
    if not archive.exists():
        message = f"real images are missing: no {archive}; set ESVIT_TEST_DATA to the folder that holds it"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    folder = tmp_path_factory.mktemp(name)
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return folder / name


@dataclass(frozen=True)
class S3Server:
    """A running S3 server with one pair of keys that may do everything."""

    endpoint_url: str
    access_key: str
    secret_key: str
    restart: Callable[[], None] = field(default=lambda: None, compare=False)
    """Kill it and start it again on the same data and ports; returns once it answers."""

    @property
    def env(self) -> dict[str, str]:
        """The environment of a process that is to use this server."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def new_url(self) -> str:
        """URL of a new, empty place in the one bucket: each bucket would take a volume of the server's few."""
        return f"s3://{BUCKET}/{secrets.token_hex(6)}"

    def make_bucket(self) -> None:
        """Make `BUCKET`."""
        import botocore.session

        client = botocore.session.Session().create_client(
            "s3",
            region_name="us-east-1",
            endpoint_url=self.endpoint_url,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
        )
        client.create_bucket(Bucket=BUCKET)
        client.close()


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """SeaweedFS on the loopback interface, on free ports, with telemetry off; stopped at the end."""
    folder = tmp_path_factory.mktemp("s3")
    ports = _free_ports(5)
    master, volume, filer, s3, admin = ports
    processes: list[subprocess.Popen[bytes]] = []

    def start() -> None:
        with open(folder / "weed.log", "ab") as log:
            env = os.environ | {"TMPDIR": str(folder)}  # for its log files
            processes.append(subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, env=env))
        _wait_until_healthy(server.endpoint_url, processes[-1], folder / "weed.log")

    def stop() -> None:
        for process in processes:
            process.kill()  # its data goes with the temporary folder: nothing to shut down in order
            process.wait()

    def restart() -> None:
        stop()
        start()

    server = S3Server(f"http://127.0.0.1:{s3}", secrets.token_hex(8), secrets.token_hex(16), restart)
    credentials = [{"accessKey": server.access_key, "secretKey": server.secret_key}]
    identity = {"name": "test", "credentials": credentials, "actions": ["Admin", "Read", "Write", "List"]}
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    command = [
        str(Path(sys.executable).with_name("weed")),
        "mini",
        f"-dir={folder}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        "-master.telemetry=false",
        f"-master.port={master}",
        f"-volume.port={volume}",
        f"-filer.port={filer}",
        f"-s3.port={s3}",
        f"-admin.port={admin}",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-webdav=false",
        "-admin.ui=false",
        "-s3.cacheCapacityMB=256",
        "-volume.max=64",  # by default as many as fit on the disk: on a full one too few for a bucket
        f"-s3.config={folder / 's3.json'}",
    ]
    try:
        start()
        server.make_bucket()
        yield server
    finally:
        stop()
        for port in (*ports, *(port + 10_000 for port in ports)):
            for socket_file in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
                socket_file.unlink()


def _free_ports(count: int) -> list[int]:
    """Ports that are free now, and so is each plus 10,000, which the server takes for gRPC.

    All are below those that Linux gives to outgoing connections (from 32,768 on): one of these may take the port before
    the server does, and a connection that gets the port it connects to is connected to itself.
    """
    ports: list[int] = []
    while len(ports) < count:
        port = 10_000 + secrets.randbelow(12_000)
        if all(_is_free(candidate) and candidate not in ports for candidate in (port, port + 10_000)):
            ports.append(port)
    return ports


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _wait_until_healthy(endpoint_url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline_s = time.monotonic() + 60
    while time.monotonic() < deadline_s and process.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{endpoint_url}/healthz", timeout=2):
            return
        time.sleep(0.1)
    pytest.fail(f"the S3 server did not start: {log.read_text()[-2000:]}")
