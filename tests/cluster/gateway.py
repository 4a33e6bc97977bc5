"""Bucket policies enforced: an HTTP gateway before a real S3 server that refuses what an IAM policy does not allow.

It knows of IAM what our policies use: Allow and Deny, actions, resources with `*`, and the condition `Null` on
`s3:if-none-match`. Which action a request needs: "Actions, resources, and condition keys for Amazon S3" (Service
Authorization Reference). Requests are passed on as they are, `Host` included, so signatures hold.
"""

import http.client
import json
import re
import threading
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "expect"}


class Asked(NamedTuple):
    """One thing that a request needs to be allowed: `s3:PutObject` on `bucket/key`; whether it is create-only."""

    action: str
    resource: str
    create_only: bool = False


def asked(method: str, path: str, headers: Mapping[str, str], body: bytes) -> Iterator[Asked]:
    """What a request of the S3 protocol needs."""
    parts = urlsplit(path)
    query = parse_qs(parts.query, keep_blank_values=True)
    bucket, _, key = unquote(parts.path).strip("/").partition("/")
    where = f"{bucket}/{key}" if key else bucket
    match method:
        case "GET" | "HEAD" if key:
            yield Asked("s3:GetObject", where)
        case "GET" if "location" in query:
            yield Asked("s3:GetBucketLocation", where)
        case "GET" if "versions" in query:
            yield Asked("s3:ListBucketVersions", where)
        case "GET" | "HEAD":
            yield Asked("s3:ListBucket" if bucket else "s3:ListAllMyBuckets", where)
        case "POST" if "delete" in query:
            for name in re.findall(rb"<Key>(.*?)</Key>", body):
                yield Asked("s3:DeleteObject", f"{bucket}/{name.decode()}")
        case "PUT" | "POST" if key:
            if source := headers.get("x-amz-copy-source"):
                yield Asked("s3:GetObject", unquote(source).lstrip("/"))
            yield Asked("s3:PutObject", where, "If-None-Match" in headers)
        case "DELETE" if "uploadId" in query:
            yield Asked("s3:AbortMultipartUpload", where)
        case "DELETE" if key:
            yield Asked("s3:DeleteObject", where)
        case _:
            yield Asked(f"{method} of a bucket", where)


def allows(policy: Mapping[str, Any], one: Asked) -> bool:
    """Whether a policy allows it: some statement does, and none denies."""
    effects = {statement["Effect"] for statement in policy["Statement"] if _speaks_of(statement, one)}
    return effects == {"Allow"}


def _speaks_of(statement: Mapping[str, Any], one: Asked) -> bool:
    for kind, condition in statement.get("Condition", {}).items():
        ((name, value),) = condition.items()
        assert (kind, name) == ("Null", "s3:if-none-match")
        if one.create_only == (value == "true"):
            return False
    resources = (resource.removeprefix("arn:aws:s3:::") for resource in statement["Resource"])
    return one.action in statement["Action"] and any(fnmatchcase(one.resource, each) for each in resources)


class Gateway:
    """Listens on 127.0.0.1 while the context lasts. `seen` and `refused` are what was asked."""

    def __init__(self, policy: Path, upstream_port: int) -> None:
        self.policy = json.loads(policy.read_text())
        self.seen: list[Asked] = []
        self.refused: list[Asked] = []
        self.upstream_port = upstream_port
        self._server = _Server(("127.0.0.1", 0), type("Client", (_Client,), {"gateway": self}))
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "Gateway":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def actions(self) -> set[str]:
        return {one.action for one in self.seen}

    def allows(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> bool:
        wanted = list(asked(method, path, headers, body))
        refused = [one for one in wanted if not allows(self.policy, one)]
        self.seen += wanted
        self.refused += refused
        return not refused


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that went away are none of ours."""


class _Client(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    gateway: Gateway

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.gateway.allows(self.command, self.path, self.headers, body):
            self._answer(*self._forward(body))
        else:
            told = b"<Error><Code>AccessDenied</Code><Message>the policy does not allow it</Message></Error>"
            self._answer(403, {"Content-Type": "application/xml", "Content-Length": str(len(told))}, told)

    do_HEAD = do_PUT = do_POST = do_DELETE = do_GET  # noqa: N815  # the names are http.server's

    def _forward(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        upstream = http.client.HTTPConnection("127.0.0.1", self.gateway.upstream_port, timeout=120)
        try:
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in _HOP_BY_HOP:
                    upstream.putheader(name, value)
            upstream.endheaders(body or None)
            got = upstream.getresponse()
            data = got.read()
            headers = {name: value for name, value in got.getheaders() if name.lower() not in _HOP_BY_HOP}
            return got.status, headers | ({} if self.command == "HEAD" else {"Content-Length": str(len(data))}), data
        finally:
            upstream.close()

    def _answer(self, status: int, headers: Mapping[str, str], data: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass
