"""Thousands of samples through a store that fails in every way it can: none lost, none repeated, none hung.

By default a short campaign; `make campaign` runs the one whose table stands in docs/reliability.md.
"""

import os
import re
from pathlib import Path
from typing import Any

import pytest

from support.campaign import run_campaign

pytestmark = [pytest.mark.slow, pytest.mark.s3]

NUM_SAMPLES = int(os.environ.get("ESVIT_CAMPAIGN_SAMPLES", "2000"))
IS_FULL = "ESVIT_CAMPAIGN_SAMPLES" in os.environ
RELIABILITY = Path(__file__).parents[2] / "docs/reliability.md"


@pytest.mark.timeout(3600)
def test_no_sample_is_lost_or_repeated(s3_server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3_server.env.items():
        monkeypatch.setenv(name, value)
    report = run_campaign(
        s3_server, tmp_path, NUM_SAMPLES, late_s=5.0 if IS_FULL else 0.5, bucket_gone_s=30.0 if IS_FULL else 1.0
    )
    assert report.num_wrong == 0
    assert report.longest_wait_s < 90
    assert report.injected["restart"] == 1 and report.injected["no-bucket"] > 0
    if IS_FULL:
        text = RELIABILITY.read_text()
        marked = re.compile(r"(?<=<!-- campaign -->\n).*?(?=<!-- end -->)", re.DOTALL)
        RELIABILITY.write_text(marked.sub(lambda _: f"\n{report.table()}\n\n", text))
