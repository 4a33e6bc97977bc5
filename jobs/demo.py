"""See it work, offline, in about a minute: make a small archive whose truth is known, label it, ask it five questions.

python jobs/demo.py [--out out/demo]
"""

import shutil
from pathlib import Path

import duckdb
from pydantic import Field

from vidproc.command import Options, end_with, parse
from vidproc.pipeline import label
from vidproc.pipeline.options import LabelConfig
from vidproc.tables.query import connect
from vidproc.train.archive import Truth, make_archive

QUESTIONS = {
    "What became of last night's videos?": """
        SELECT status, count(*) AS videos, round(sum(duration_us) / 1e6, 1) AS seconds
        FROM latest_videos GROUP BY ALL ORDER BY videos DESC""",
    "How much of each motion is in the archive?": """
        SELECT label, count(DISTINCT video_id) AS videos, round(sum(end_s - start_s), 1) AS seconds
        FROM label_spans WHERE task = 'action' AND best_score > 0.5 GROUP BY ALL ORDER BY seconds DESC""",
    "Where does a star move to the left?": """
        SELECT parse_filename(uri) AS video, member, round(motion.score, 3) AS motion, round(shape.score, 3) AS shape
        FROM video_labels AS motion JOIN video_labels AS shape USING (video_id, uri, member)
        WHERE (motion.label, motion.rank, shape.label, shape.rank) = ('left', 1, 'star', 1) ORDER BY uri, member""",
    "When, to the second, is a circle to be seen?": """
        SELECT parse_filename(uri) AS video, member, start_s, end_s, round(best_score, 3) AS score
        FROM label_spans WHERE label = 'circle' AND best_score > 0.5 ORDER BY uri, member, start_s LIMIT 8""",
    "Which stretches are black or frozen, so that nobody need look?": """
        SELECT parse_filename(uri) AS video, start_s, end_s, black, frozen
        FROM quality_spans WHERE black OR frozen ORDER BY uri, start_s LIMIT 8""",
}

FAILURES = """SELECT parse_filename(uri) AS video, status, reason, left(detail, 60) AS detail
    FROM failures ORDER BY uri"""


class DemoConfig(Options):
    """Options of the demo."""

    out: Path = Field(Path("out/demo"), description="folder to work in; what an earlier demo left there is replaced")


def main() -> int:
    return demo(parse(DemoConfig, __doc__).out)


def demo(out: Path) -> int:
    """Run the demo in `out`. Returns 0 if the labels are right for at least 80 % of the videos."""
    for folder in ("archive", "tables"):
        shutil.rmtree(out / folder, ignore_errors=True)
    (out / "archive").mkdir(parents=True)
    print("making an archive of videos whose truth is known …", flush=True)
    truth = make_archive(out / "archive")
    config = LabelConfig(
        archive=(str(out / "archive"),),
        tables=str(out / "tables"),
        annotators=("quality", "actions", "objects"),
        weights={"actions": "demo", "objects": "demo"},
        failure_budget=0.5,
    )
    code = label.run(config)
    if code:
        return code
    tables = connect(str(out / "tables"))
    for question, query in QUESTIONS.items():
        print(f"\n{question}")
        tables.sql(query).show()
    print("\nWhat could not be labelled, and why")
    tables.sql(FAILURES).show()
    share = accuracy(tables, truth, out / "archive")
    print(f'ask your own: python jobs/query.py --tables {out / "tables"} "SELECT * FROM video_labels"')
    print(f"accuracy {share:.2f}")
    return 0 if share >= 0.8 else 1


def accuracy(tables: duckdb.DuckDBPyConnection, truth: list[Truth], archive: Path) -> float:
    """Share of (video, task) whose best label over the whole video is the truth; one that is missing is wrong."""
    found = tables.sql("SELECT uri, member, task, label FROM video_labels WHERE rank = 1").fetchall()
    best = {(uri.rsplit(f"{archive.name}/", 1)[-1], member, task): name for uri, member, task, name in found}
    right = [best.get((one.file, one.member, "action")) == one.motion for one in truth]
    right += [best.get((one.file, one.member, "object")) == one.shape for one in truth]
    return float(sum(right) / len(right))


if __name__ == "__main__":
    end_with(main)
