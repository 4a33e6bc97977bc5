"""What must hold of the tables of any run, table by table, as SQL that finds the rows for which it does not.

Each rule comes with a change of good tables that breaks it, so that a test can show that it finds something. Queries
ask tables with the names of the schema; a breaking statement changes copies of them.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import pyarrow as pa

from vidproc.schema import ANNOTATION_TABLES, STATUSES, TABLES, WHOLE_VIDEO

UNIT = "video_id, annotator, model_id"
WHOLE = f"(SELECT {UNIT}, start_us AS from_us, end_us AS until_us FROM ledger WHERE segment = {WHOLE_VIDEO}) AS whole"
SPANS = tuple(name for name, table in ANNOTATION_TABLES.items() if "end_us" in table.schema.names)
MOMENTS = tuple(name for name, table in ANNOTATION_TABLES.items() if "time_us" in table.schema.names)
BOXES = tuple(name for name, table in ANNOTATION_TABLES.items() if "x1" in table.schema.names)
FILLED = ("videos", *ANNOTATION_TABLES, "ledger", "runs")
"""The tables that one run with every annotator fills."""


class Rule(NamedTuple):
    """`query`: the rows that break the rule. `broken_by`: a statement after which there are some."""

    query: str
    broken_by: str


def _times() -> Iterator[tuple[str, Rule]]:
    for name in SPANS:
        rows = f"SELECT {name}.* FROM {name} JOIN {WHOLE} USING ({UNIT})"
        wrong = f"{rows} WHERE start_us < from_us OR end_us > until_us OR start_us >= end_us"
        yield f"{name}: spans lie in their video", Rule(wrong, f"UPDATE {name} SET end_us = end_us + 3600000000")
    for name in MOMENTS:
        rows = f"SELECT {name}.* FROM {name} JOIN {WHOLE} USING ({UNIT})"
        wrong = f"{rows} WHERE time_us < from_us OR time_us >= until_us"
        yield f"{name}: times lie in their video", Rule(wrong, f"UPDATE {name} SET time_us = time_us - 3600000000")
    for name in ANNOTATION_TABLES:
        yield (
            f"{name}: rows are of whole videos in the ledger",
            Rule(f"FROM {name} ANTI JOIN {WHOLE} USING ({UNIT})", f"UPDATE {name} SET model_id = 'another'"),
        )


def _values() -> Iterator[tuple[str, Rule]]:
    for name in BOXES:
        inside = "0 <= x1 AND x1 < x2 AND x2 <= 1 AND 0 <= y1 AND y1 < y2 AND y2 <= 1"
        wrong = f"FROM {name} WHERE NOT coalesce({inside}, false)"
        yield f"{name}: boxes lie in their picture", Rule(wrong, f"UPDATE {name} SET x2 = x1")
    for name in FILLED:
        key = ", ".join(f'"{column}"' for column in TABLES[name].key)
        again = f"INSERT INTO {name} SELECT * FROM {name} LIMIT 1"
        query = f"SELECT {key} FROM {name} GROUP BY {key} HAVING count(*) > 1"
        yield f"{name}: keys are there once", Rule(query, again)
        for field in TABLES[name].schema:
            kind = field.type.value_type if pa.types.is_list(field.type) else field.type
            if pa.types.is_floating(kind):
                yield f"{name}.{field.name} is a number", _finite(name, field)


def _finite(name: str, field: Any) -> Rule:
    if pa.types.is_floating(field.type):
        return Rule(
            f'FROM {name} WHERE NOT isfinite("{field.name}")', f"UPDATE {name} SET \"{field.name}\" = 'nan'::FLOAT"
        )
    return Rule(
        f'FROM {name} WHERE len(list_filter("{field.name}", lambda x: NOT isfinite(x))) > 0',
        f"UPDATE {name} SET \"{field.name}\" = ['inf'::FLOAT]",
    )


_SAMPLE = f"{UNIT}, scope, start_us, end_us"
_STATES = ", ".join(f"'{status}'" for status in STATUSES)
_COUNTED = " + ".join((*STATUSES, "deferred"))
_NEXT = f"OVER (PARTITION BY {UNIT} ORDER BY start_us)"

RULES: dict[str, Rule] = {
    **dict(_times()),
    **dict(_values()),
    "labels: they have names, and scores in 0..1": Rule(
        "FROM labels WHERE trim(label) = '' OR NOT score BETWEEN 0 AND 1", "UPDATE labels SET label = ' '"
    ),
    "labels: those of one sample, or video, are ranked from 1, by score": Rule(
        f"""SELECT {_SAMPLE} FROM labels WHERE scope <> 'span' GROUP BY {_SAMPLE}
        HAVING list(rank ORDER BY score DESC, label_id) <> range(1, count(*) + 1)""",
        "UPDATE labels SET rank = rank + 1",
    ),
    "labels: those of whole videos span them": Rule(
        f"FROM labels JOIN {WHOLE} USING ({UNIT}) WHERE scope = 'video' AND (start_us, end_us) <> (from_us, until_us)",
        "UPDATE labels SET end_us = end_us - 1 WHERE scope = 'video'",
    ),
    "detections: they have names, and scores in 0..1": Rule(
        "FROM detections WHERE trim(label) = '' OR NOT score BETWEEN 0 AND 1", "UPDATE detections SET score = 1.5"
    ),
    "tracks: each has its detections, and each of them is there, in one track only": Rule(
        f"""SELECT {UNIT}, id FROM (
            SELECT {UNIT}, unnest(detection_ids) AS id FROM tracks
            UNION ALL SELECT {UNIT}, track_id FROM tracks WHERE n_detections <> len(detection_ids) OR n_detections < 2)
        LEFT JOIN (SELECT {UNIT}, detection_id AS id, 1 AS there FROM detections) USING ({UNIT}, id)
        GROUP BY ALL HAVING count(*) > 1 OR any_value(there) IS NULL""",
        "UPDATE tracks SET detection_ids = list_append(detection_ids[2:], 'none')",
    ),
    "tracks: they begin and end with their detections, and have the best one's box": Rule(
        f"""FROM tracks JOIN detections AS best USING ({UNIT})
        WHERE best.detection_id IN tracks.detection_ids AND best.time_us = best_time_us
            AND ((best.x1, best.y2) <> (tracks.x1, tracks.y2) OR NOT best_time_us BETWEEN start_us AND end_us - 1)""",
        "UPDATE tracks SET start_us = best_time_us + 1, end_us = best_time_us + 2",
    ),
    "faces: who is matched has a name, nobody else has": Rule(
        "FROM faces WHERE decision NOT IN ('matched', 'unknown', 'unfit', 'undecided') "
        "OR (decision = 'matched') <> (identity IS NOT NULL)",
        "UPDATE faces SET decision = 'matched', identity = NULL",
    ),
    "faces: they are in tracks, decided by a gallery, and no vector is kept": Rule(
        "FROM faces WHERE track_id IS NULL OR gallery_version IS NULL OR vector IS NOT NULL OR len(landmarks) <> 10 "
        "OR NOT (score BETWEEN 0 AND 1 AND quality BETWEEN 0 AND 1 AND coalesce(abs(similarity) <= 1.00001, true))",
        "UPDATE faces SET vector = [0.5]",
    ),
    "shots: they follow on each other, from the video's start to its end": Rule(
        f"""FROM (SELECT *, lead(start_us) {_NEXT} AS next_us, row_number() {_NEXT} - 1 AS place FROM shots)
        JOIN {WHOLE} USING ({UNIT})
        WHERE shot <> place OR end_us <> coalesce(next_us, until_us) OR (shot = 0) <> (transition = 'start')
            OR (shot = 0 AND start_us <> from_us) OR transition NOT IN ('start', 'cut', 'fade')""",
        "UPDATE shots SET shot = shot + 1",
    ),
    "quality: stretches of at most two seconds, one after the other": Rule(
        f"""FROM (SELECT *, lead(start_us) {_NEXT} AS next_us FROM quality)
        WHERE end_us - start_us > 2000000 OR end_us > next_us""",
        "UPDATE quality SET end_us = start_us + 2000001",
    ),
    "quality: measures are where they can be": Rule(
        """FROM quality WHERE NOT brightness BETWEEN 0 AND 1 OR NOT contrast BETWEEN 0 AND 0.51
        OR NOT motion BETWEEN 0 AND 1 OR sharpness < 0 OR noise < 0 OR (brightness IS NULL) <> (black IS NULL)
        OR NOT loudness_lufs BETWEEN -121 AND 6 OR silent <> (loudness_lufs < -60)""",
        "UPDATE quality SET loudness_lufs = 40, silent = false",
    ),
    "text: it says something, without control characters, in a language by three letters": Rule(
        r"""FROM text WHERE trim(text) = '' OR regexp_matches(text, '[\x00-\x08\x0b-\x1f\x7f]')
        OR NOT coalesce(regexp_full_match(language, '[a-z]{3}'), true)
        OR source NOT IN ('subtitle', 'caption', 'chapter', 'metadata')""",
        "UPDATE text SET language = 'german'",
    ),
    "embeddings: vectors of one length, 1": Rule(
        """FROM embeddings WHERE abs(list_inner_product(vector, vector) - 1) > 1e-4
        OR (model_id, len(vector)) NOT IN (SELECT (model_id, mode(len(vector))) FROM embeddings GROUP BY model_id)""",
        "UPDATE embeddings SET vector = [0.5, 0.5]",
    ),
    "videos: status and reason go together": Rule(
        f"""FROM videos WHERE status NOT IN ({_STATES}) OR (status = 'labelled') <> (reason IS NULL)
        OR NOT coalesce(coverage BETWEEN 0 AND 1, true)""",
        "UPDATE videos SET reason = 'damaged', status = 'labelled'",
    ),
    "videos: what opened has a container, a codec and a duration; a picture has a size": Rule(
        """FROM videos WHERE (container IS NULL) <> (codec IS NULL) OR (container IS NOT NULL AND duration_us IS NULL)
        OR duration_us <= 0 OR least(width, height) <= 0 OR (width IS NULL) <> (height IS NULL)
        OR NOT coalesce(rotation IN (0, 90, 180, 270), true) OR NOT coalesce(fps > 0 AND fps <= 1000, true)""",
        "UPDATE videos SET duration_us = -1",
    ),
    "videos: each place once": Rule(
        "SELECT uri, member FROM videos GROUP BY ALL HAVING count(*) > 1",
        "UPDATE videos SET uri = 'a', member = ''",
    ),
    "ledger: of each unit all segments, and the whole, once": Rule(
        f"""SELECT {UNIT} FROM ledger GROUP BY {UNIT}
        HAVING list(segment ORDER BY segment) <> range({WHOLE_VIDEO}, max(n_segments))""",
        f"DELETE FROM ledger WHERE segment = {WHOLE_VIDEO}",
    ),
    "ledger: segments follow on each other, none longer than 30 s": Rule(
        f"""FROM (SELECT *, lead(start_us) {_NEXT} AS next_us FROM ledger WHERE segment >= 0 AND end_us > 0)
        WHERE end_us - start_us > 30000000 OR next_us <> end_us""",
        "UPDATE ledger SET end_us = end_us + 30000000 WHERE segment = 0",
    ),
    "ledger: states are known, with their reasons; nothing took less than no time": Rule(
        f"""FROM ledger WHERE status NOT IN ({_STATES}) OR (status = 'labelled') <> (reason IS NULL)
        OR attempts < 1 OR rows < 0 OR decode_s < 0 OR infer_s < 0 OR NOT coalesce(coverage BETWEEN 0 AND 1, true)""",
        "UPDATE ledger SET status = 'labelled', reason = 'damaged'",
    ),
    "ledger: one decode of a segment serves all annotators of a run": Rule(
        """SELECT video_id, segment, run_id FROM ledger WHERE segment >= 0 GROUP BY ALL
        HAVING count(DISTINCT (decode_s, coverage, attempts)) > 1""",
        "UPDATE ledger SET decode_s = decode_s + random()",
    ),
    "runs: planned is what became of it": Rule(
        f"FROM runs WHERE planned <> {_COUNTED} OR deferred < 0 OR video_hours < 0",
        "UPDATE runs SET planned = planned + 1",
    ),
}  # fmt: skip
"""What holds → how to find where it does not."""


def broken(connection: Any, rule: str, *, most: int = 5) -> list[dict[str, Any]]:
    """A few of the rows that break a rule."""
    found: list[dict[str, Any]] = connection.sql(f"{RULES[rule].query} LIMIT {most}").to_arrow_table().to_pylist()
    return found
