"""Keys, tokens and signatures stay out of logs, messages and metrics; an expired token ends a command at once."""

import re
import secrets
import subprocess
import sys
import time
from typing import Any

import pytest

from support.fault_proxy import Fault, fault_proxy
from support.shards import jpegs, write_shards
from support.training import environment

pytestmark = pytest.mark.s3

# With everything logged that any library has to say, and the metrics at the end.
COMMAND = """
import atexit, logging, sys
from prometheus_client import generate_latest
logging.basicConfig(level=logging.DEBUG)
atexit.register(lambda: sys.stderr.write(generate_latest().decode()))
from tools.shard_builder.cli import main
main()
"""


def run_stats(url: str, env: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", COMMAND, "stats", url]
    return subprocess.run(command, env=environment(env), capture_output=True, text=True, timeout=60)


def assert_discreet(run: "subprocess.CompletedProcess[str]", *hidden: str) -> None:
    output = run.stdout + run.stderr
    assert "esvit_store_read_bytes_total" in output and "DEBUG:" in output
    assert "Traceback" not in output
    assert not re.search(r"AWS4-HMAC-SHA256|X-Amz-Signature|signature\W*[0-9a-f]{64}", output, re.IGNORECASE)
    for word in hidden:
        assert word not in output


def test_nothing_secret_is_logged_whether_it_succeeds_or_fails(s3_server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3_server.env.items():
        monkeypatch.setenv(name, value)
    url = s3_server.new_url()
    write_shards(url, jpegs(2))
    run = run_stats(url, s3_server.env)
    assert run.returncode == 0, run.stderr
    assert_discreet(run, s3_server.secret_key)

    wrong = s3_server.env | {"AWS_SECRET_ACCESS_KEY": secrets.token_hex(20)}
    run = run_stats(url, wrong)
    assert run.returncode == 2 and "the secret key does not belong to the access key" in run.stderr
    assert_discreet(run, wrong["AWS_SECRET_ACCESS_KEY"])


def test_an_expired_token_is_one_sentence_at_once(s3_server: Any) -> None:
    url = s3_server.new_url()
    with fault_proxy(s3_server.endpoint_url) as proxy:
        proxy.faults += [Fault("expired", method, ".*", times=1000) for method in ("GET", "HEAD")]
        env = s3_server.env | {"AWS_ENDPOINT_URL": proxy.endpoint_url, "AWS_SESSION_TOKEN": secrets.token_hex(20)}
        begin_s = time.monotonic()
        run = run_stats(url, env)
        seconds, num_requests = time.monotonic() - begin_s, 2000 - sum(fault.times for fault in proxy.faults)
    assert run.returncode == 2 and seconds < 30 and num_requests <= 3
    (sentence,) = re.findall(r"^error: .*", run.stderr, re.MULTILINE)
    assert sentence == f"error: cannot read {url}/manifest.json: the session token has expired; get a new one"
    assert_discreet(run, s3_server.secret_key, env["AWS_SESSION_TOKEN"])
