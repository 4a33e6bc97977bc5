"""Where a video lies that the tables name: they say which version it is, and not at which byte of its tar shard."""

import glob
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from vidproc.errors import INPUT_ERRORS, Changed
from vidproc.media.listing import Listed
from vidproc.media.selection import Selection
from vidproc.media.shards import index_shard
from vidproc.media.sources import Source
from vidproc.media.walk import look_up


class Members:
    """Sources of rows of the table `videos`. The index of the shard read last is kept: ask in the order of `uri`."""

    def __init__(self) -> None:
        self._known: tuple[str, str, Selection] | None = None
        self._rows: dict[str, Listed] = {}

    def source_of(self, video: Mapping[str, Any]) -> Source:
        """The version of the video that was labelled. `video`: its video_id, uri, member, etag and bytes.

        Of a member its shard is looked up and indexed, and what that raises is raised: `Missing`, `Changed`, ….
        """
        uri, member, etag = video["uri"], video["member"], video["etag"]
        if not member:
            return Source(uri, "", 0, video["bytes"], etag)
        self._index(uri, etag, _selecting(member))
        listed = self._rows.get(member) or self._rows.get("")  # the latter says why the shard's index ends early
        if listed is not None and listed.reason:
            raise INPUT_ERRORS[listed.reason](listed.detail or "")
        if listed is None or listed.source.video_id != video["video_id"]:
            raise Changed(f"{uri} has another member {member[:200]!r} than when it was labelled, or none")
        return listed.source

    def _index(self, uri: str, etag: str, selection: Selection) -> None:
        if self._known == (uri, etag, selection):
            return
        found = look_up(uri, name=uri)
        if found.problem is not None:
            raise found.problem
        if found.source.etag != etag:
            raise Changed(f"{uri} was replaced since it was labelled: label it anew")
        self._rows = {row.source.member: row for row in index_shard(found.source, selection).rows}
        self._known = (uri, etag, selection)


def _selecting(member: str) -> Selection:
    """One that takes this member for a video; a listing may have been told to, by `--include`."""
    usual = Selection()
    if usual.is_media(member):
        return usual
    return Selection(include=(f"*{glob.escape(PurePosixPath(member).suffix)}",))
