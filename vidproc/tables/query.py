"""Plain SQL for analysts: DuckDB over the newest version of every table, read through its log, with friendly views.

User SQL may only read, and only the tables: files, the network and settings are closed to it.
"""

from typing import Any

import duckdb

from vidproc.errors import UsageError
from vidproc.schema import TABLES, WHOLE_VIDEO
from vidproc.tables import deltalog, sql
from vidproc.tables.store import Store

MEMORY_LIMIT = "2GB"

# view → its SQL, in the order in which they build on each other. Times are seconds.
VIEWS = {
    "latest_videos": """
        SELECT * FROM videos
        QUALIFY row_number() OVER (PARTITION BY uri, member ORDER BY labelled_at DESC, video_id) = 1""",
    "latest_models": f"""
        SELECT video_id, annotator, arg_max(model_id, "at") AS model_id
        FROM ledger WHERE segment = {WHOLE_VIDEO} GROUP BY video_id, annotator""",
    "label_spans": """
        WITH said AS (FROM labels SEMI JOIN latest_models USING (video_id, annotator, model_id)),
        ordered AS (
            SELECT said.*, max(end_us) OVER (
                PARTITION BY video_id, annotator, task, label_id ORDER BY start_us, end_us
                ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS covered_us
            FROM said ANTI JOIN (FROM ledger WHERE notes IS NOT NULL) AS says_spans USING (annotator, model_id)
            WHERE scope = 'sample'),
        numbered AS (
            SELECT *, count(*) FILTER (covered_us IS NULL OR start_us > covered_us) OVER (
                PARTITION BY video_id, annotator, task, label_id ORDER BY start_us, end_us
                ROWS UNBOUNDED PRECEDING) AS span
            FROM ordered),
        merged AS (
            SELECT video_id, annotator, task, label, label_id,
                   min(start_us) / 1e6 AS start_s, max(end_us) / 1e6 AS end_s,
                   max(score) AS best_score, avg(score) AS mean_score, min(rank) AS best_rank, count(*) AS samples
            FROM numbered GROUP BY video_id, annotator, task, label, label_id, span
            UNION ALL
            SELECT video_id, annotator, task, label, label_id, start_us / 1e6, end_us / 1e6, score, NULL, rank, NULL
            FROM said WHERE scope = 'span')
        SELECT uri, member, merged.* FROM merged JOIN latest_videos USING (video_id)""",
    "video_labels": """
        SELECT uri, member, video_id, annotator, task, label, label_id, score, rank,
               start_us / 1e6 AS start_s, end_us / 1e6 AS end_s
        FROM labels SEMI JOIN latest_models USING (video_id, annotator, model_id) JOIN latest_videos USING (video_id)
        WHERE scope = 'video'""",
    "quality_spans": """
        SELECT uri, member, video_id, start_us / 1e6 AS start_s, end_us / 1e6 AS end_s,
               quality.* EXCLUDE (video_id, annotator, model_id, run_id, start_us, end_us)
        FROM quality SEMI JOIN latest_models USING (video_id, annotator, model_id)
             JOIN latest_videos USING (video_id)""",
    "sound_kinds": """
        SELECT uri, member, video_id, lower(label) AS kind, start_s, end_s, best_score, annotator
        FROM label_spans WHERE task = 'audio' AND lower(label) IN ('speech', 'music', 'silence')
        UNION ALL
        SELECT uri, member, video_id, 'silence', start_s, end_s, NULL, 'quality' FROM quality_spans WHERE silent""",
    "failures": f"""
        SELECT uri, member, video_id, latest_videos.status, latest_videos.reason, details.detail, latest_videos.coverage
        FROM latest_videos LEFT JOIN (
            SELECT video_id, reason, arg_max(detail, "at") AS detail FROM ledger
            WHERE segment = {WHOLE_VIDEO} GROUP BY video_id, reason) AS details USING (video_id, reason)
        WHERE latest_videos.status IN ('quarantined', 'partial', 'missing')""",
}


def connect(tables_url: str) -> Any:
    """An in-memory DuckDB connection with every table and every one of VIEWS. Raises UsageError if there are no tables.

    The tables are those of this moment: connect again to see later commits.
    """
    store = Store(tables_url)
    if not any(deltalog.exists(store, table) for table in TABLES.values()):
        raise UsageError(f"{tables_url!r} holds no tables: give the --tables URL of a labelling run")
    connection = duckdb.connect(config={"memory_limit": MEMORY_LIMIT, "threads": sql.THREADS})
    for table in TABLES.values():
        connection.register(table.name, sql.rows_of(store, table))
    for name, query in VIEWS.items():
        connection.execute(f"CREATE VIEW {name} AS {query}")
    for setting in (
        "python_enable_replacements = false",
        "enable_external_access = false",
        "lock_configuration = true",
    ):
        connection.execute(f"SET {setting}")
    return connection


def run_query(connection: Any, query: str) -> Any:
    """The rows of one reading statement as an Arrow table. Raises UsageError for anything else, and for wrong SQL."""
    try:
        statements = connection.extract_statements(query)
        if len(statements) != 1 or statements[0].type not in (
            duckdb.StatementType.SELECT,
            duckdb.StatementType.EXPLAIN,
        ):
            kinds = ", ".join(statement.type.name for statement in statements) or "nothing"
            raise UsageError(f"only one statement that reads is allowed (SELECT, DESCRIBE, EXPLAIN), this is {kinds}")
        return connection.sql(query).to_arrow_table()
    except duckdb.Error as error:
        raise UsageError(f"the SQL does not work: {error}") from error
