"""The bucket policies, enforced before a real S3 server: the jobs do their work under them; the rest is refused.

What this leaves out: AWS' own evaluation (the gateway has ours), and GKE, whose tables lie on a file share.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import s3fs
from gateway import Asked, Gateway, allows, asked
from manifests import CLUSTER, ROOT
from nodes_with_roles import RayNode, job_line
from pipeline.labelling import environment

from vidproc.tables.query import connect
from vidproc.train.encoded import encode
from vidproc.train.synthetic import MOTIONS, SHAPES, render

POLICIES = CLUSTER / "policies"
TABLES = "s3://example-tables/video"
VIDEOS = 6


@pytest.mark.parametrize(
    ("request_", "wanted"),
    [
        (("GET", "/b?list-type=2&prefix=x"), [Asked("s3:ListBucket", "b")]),
        (("HEAD", "/b/k%20y"), [Asked("s3:GetObject", "b/k y")]),
        (("PUT", "/b/k", {"If-None-Match": "*"}), [Asked("s3:PutObject", "b/k", True)]),
        (("POST", "/b/k?uploads"), [Asked("s3:PutObject", "b/k")]),
        (("DELETE", "/b/k?uploadId=1"), [Asked("s3:AbortMultipartUpload", "b/k")]),
        (("POST", "/b?delete", {}, b"<Key>a/b</Key>"), [Asked("s3:DeleteObject", "b/a/b")]),
        (("PUT", "/b"), [Asked("PUT of a bucket", "b")]),
    ],
)  # fmt: skip
def test_what_a_request_needs(request_: tuple[str, ...], wanted: list[Asked]) -> None:
    method, path, headers, body = (*request_, {}, b"")[:4] if len(request_) < 4 else request_
    assert list(asked(method, path, headers, body)) == wanted  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("role", "one", "allowed"),
    [
        ("decode", Asked("s3:GetObject", "example-archive/a.mp4"), True),
        ("decode", Asked("s3:GetObject", "example-tables/video/_scratch/r/plan/0.parquet"), True),
        ("decode", Asked("s3:GetObject", "example-tables/video/labels/part-1.parquet"), False),
        ("decode", Asked("s3:PutObject", "example-tables/video/labels/part-1.parquet"), False),
        ("label", Asked("s3:PutObject", "example-tables/video/labels/part-1.parquet"), True),
        ("label", Asked("s3:PutObject", "example-archive/a.mp4"), False),
        ("label", Asked("s3:PutObject", "example-tables/other/x"), False),
        ("label", Asked("s3:PutObject", "example-tables/video/_commits/000000000001.json"), False),
        ("label", Asked("s3:PutObject", "example-tables/video/_commits/000000000001.json", True), True),
        ("label", Asked("s3:PutObject", "example-tables/video/_audit/r-begun.json"), False),
        ("label", Asked("s3:PutObject", "example-tables/video/labels/_delta_log/00000000000000000001.json"), False),
        ("label", Asked("s3:PutObject", "example-tables/video/labels/_delta_log/_last_checkpoint"), True),
        ("label", Asked("s3:DeleteObject", "example-tables/video/labels/part-1.parquet"), False),
        ("label", Asked("s3:DeleteObject", "example-tables/video/_runs/r.json"), True),
        ("maintain", Asked("s3:DeleteObject", "example-tables/video/labels/part-1.parquet"), True),
        ("maintain", Asked("s3:PutObject", "example-tables/video/_commits/000000000001.json"), True),
        ("maintain", Asked("s3:GetObject", "example-archive/a.mp4"), False),
    ],
)
def test_what_a_role_may(role: str, one: Asked, allowed: bool) -> None:
    assert allows(json.loads((POLICIES / f"aws-{role}.json").read_text()), one) == allowed


def test_no_policy_is_wide() -> None:
    for path in POLICIES.glob("aws-*.json"):
        for statement in json.loads(path.read_text())["Statement"]:
            assert not any("*" in action for action in statement["Action"]), path
            assert all(each.startswith("arn:aws:s3:::example-") for each in statement["Resource"]), path


def test_google_gives_the_archive_to_read_alone() -> None:
    (binding,) = json.loads((POLICIES / "gcp-archive.json").read_text())["bindings"]
    assert binding["role"] == "roles/storage.objectViewer"
    accounts = {member.rpartition("/ns/vidproc/sa/")[2] for member in binding["members"]}
    assert accounts == {"head", "network", "decode"}


@pytest.fixture(scope="module")
def roles(s3: str) -> Iterator[dict[str, Gateway]]:
    """A gateway for each role, before one S3 server that holds an archive of drawn videos."""
    port = urlsplit(os.environ["AWS_ENDPOINT_URL"]).port
    assert port is not None
    filesystem = s3fs.S3FileSystem()
    for bucket in ("example-archive", "example-tables"):
        filesystem.mkdir(bucket)
    for number in range(VIDEOS):
        frames = render(
            shape=SHAPES[number % len(SHAPES)], motion=MOTIONS[0], seconds=1, fps=8, size=(64, 64), seed=number
        )
        filesystem.pipe_file(f"example-archive/{number}.mp4", encode(frames, fps=8))
    with ExitStack() as stack:
        yield {
            role: stack.enter_context(Gateway(POLICIES / f"aws-{role}.json", port))
            for role in ("decode", "label", "maintain")
        }


def maintain(gateway: Gateway, *flags: str) -> "subprocess.CompletedProcess[str]":
    line = [sys.executable, str(ROOT / "jobs" / "maintain.py"), *flags, "--tables", TABLES]
    return subprocess.run(
        line, env=environment() | {"AWS_ENDPOINT_URL": gateway.url}, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
@pytest.mark.s3
def test_jobs_work_under_their_roles(roles: dict[str, Gateway]) -> None:
    """Decode nodes as `decode`, the others as `label`, then maintenance with its own: none is refused."""
    decode, label = roles["decode"], roles["label"]
    with tempfile.TemporaryDirectory(prefix="ro-") as folder, ExitStack() as stack:
        where = Path(folder)
        head = stack.enter_context(RayNode.head(where, AWS_ENDPOINT_URL=label.url))
        stack.enter_context(head.beside("network", {"network": 1, "write": 1}, AWS_ENDPOINT_URL=label.url))
        stack.enter_context(head.beside("decode", {"decode": 2}, AWS_ENDPOINT_URL=decode.url))
        flags = ["--archive", "s3://example-archive/", "--tables", TABLES, "--annotators", "quality,objects"]
        flags += ["--weights", "objects=demo", "--decode-resources", "decode=1", "--network-resources", "network=1"]
        done = job_line(head, [*flags, "--write-resources", "write=0.01"])
    assert done.returncode == 0, done.stderr[-4000:]
    assert label.refused == [] and decode.refused == []
    assert any(one.resource.startswith("example-archive/") for one in decode.seen)
    assert decode.actions() == {"s3:GetObject"} and "s3:DeleteObject" in label.actions()
    assert any(one.create_only and "/_commits/" in one.resource for one in label.seen)
    assert any(one.create_only and "/_delta_log/" in one.resource for one in label.seen)
    with connect(TABLES) as connection:
        assert connection.execute("SELECT count(*) FROM latest_videos WHERE status = 'labelled'").fetchone() == (
            VIDEOS,
        )

    for verb in (["compact"], ["vacuum", "--older-than", "0"], ["check"]):
        done = maintain(roles["maintain"], *verb)
        assert done.returncode == 0, done.stderr[-3000:]
    assert roles["maintain"].refused == [] and "s3:DeleteObject" in roles["maintain"].actions()

    stolen = s3fs.S3FileSystem(client_kwargs={"endpoint_url": label.url}, skip_instance_cache=True)
    with pytest.raises(PermissionError):  # history cannot be rewritten
        stolen.pipe_file("example-tables/video/_commits/000000000001.json", b"{}")
    for part in stolen.glob("example-tables/video/*/part-*.parquet"):
        with pytest.raises(PermissionError):  # nor what is in the tables removed
            stolen.rm_file(part)
    assert {one.action for one in label.refused} == {"s3:PutObject", "s3:DeleteObject"}
