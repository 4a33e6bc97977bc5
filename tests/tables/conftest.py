"""Where the tests put their tables: a local folder, and a bucket of a real S3 server where one can be had."""

import uuid
from pathlib import Path

import pytest


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.s3)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty URL, once on this disk and once on S3."""
    if request.param == "local":
        return str(tmp_path / "place")
    return f"{request.getfixturevalue('s3')}/place-{uuid.uuid4().hex[:8]}"
