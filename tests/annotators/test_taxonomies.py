"""Taxonomies: child ≤ parent on every scale, rows and ids of parents, and what is refused."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pytest
from random_weights import written

from vidproc.annotators.scenes import Scenes
from vidproc.annotators.votes import Said
from vidproc.errors import UsageError, WeightsError
from vidproc.models.taxonomy import Taxonomy, lineage, read_taxonomy
from vidproc.models.weights import resolve_weights
from vidproc.pipeline.chosen import chosen_annotators
from vidproc.pipeline.options import LabelConfig

PARENTS = {"attic": ["indoors"], "cave": ["indoors", "nature"], "bay": ["nature"], "indoors": ["place"]}
GIVEN = {"source": "made for a test", "licence": "CC0-1.0", "parents": PARENTS}
S = 1_000_000


def scenes(folder: Path, *, multi_label: bool = False, **more: Any) -> Scenes:
    return Scenes.from_spec(written(folder, "scenes", taxonomy=GIVEN, multi_label=multi_label, **more))


def taxonomy(**parents: list[str]) -> Taxonomy:
    return Taxonomy(source="a test", licence="MIT", parents=parents)  # type: ignore[arg-type]


def test_parents_come_after_the_categories_by_name() -> None:
    found = lineage(Taxonomy(**GIVEN), ("attic", "bay", "cave"))
    assert found.labels == ("attic", "bay", "cave", "indoors", "nature", "place")


def test_exclusive_labels_sum_up_and_others_take_the_largest() -> None:
    found = lineage(Taxonomy(**GIVEN), ("attic", "bay", "cave"))
    scores = np.array([[0.5, 0.2, 0.3]], np.float32)
    np.testing.assert_allclose(found.scores(scores, exclusive=True), [[0.5, 0.2, 0.3, 0.8, 0.5, 0.8]], rtol=1e-6)
    np.testing.assert_allclose(found.scores(scores, exclusive=False), [[0.5, 0.2, 0.3, 0.5, 0.3, 0.5]], rtol=1e-6)


def test_a_category_may_be_a_parent_and_keeps_what_it_knows() -> None:
    """As in AudioSet, where "speech" is a label and stands above others."""
    found = lineage(taxonomy(child=["speech"], man=["speech"]), ("speech", "child", "man"))
    assert found.labels == ("speech", "child", "man")
    scores = np.array([[0.9, 0.2, 0.1], [0.1, 0.3, 0.4]], np.float32)
    assert found.scores(scores, exclusive=False)[:, 0].tolist() == [np.float32(0.9), np.float32(0.4)]
    np.testing.assert_allclose(found.scores(scores[1:], exclusive=True)[:, 0], 0.8, rtol=1e-6)


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_no_child_ever_scores_more_than_its_parent(tmp_path: Path, multi_label: bool, seed: int) -> None:
    """On each scale, in random graphs, without a tolerance; and where a child is said, so is its parent."""
    rng = np.random.default_rng(seed)
    categories = [f"c{i}" for i in range(12)]
    inner = [f"p{i}" for i in range(6)]
    parents: dict[str, list[str]] = {name: rng.choice(inner, 2, replace=False).tolist() for name in categories}
    parents |= {name: rng.choice(inner[i + 1 :], 1).tolist() for i, name in enumerate(inner[:-1])}
    parents["c3"] = ["c4", "p0"]  # a category below another
    used = {name for name in inner if any(name in above for above in parents.values())}
    parents = {name: above for name, above in parents.items() if name in categories or name in used}
    given = {**GIVEN, "parents": parents}
    thresholds = [0.1 + 0.02 * i for i in range(12)] if seed % 2 else []
    url = written(
        tmp_path, "scenes", categories=categories, taxonomy=given, multi_label=multi_label, thresholds=thresholds
    )
    annotator = Scenes.from_spec(url)
    scores = (
        rng.dirichlet([0.2] * 12, 40).astype(np.float32) if not multi_label else rng.random((40, 12), np.float32) ** 3
    )
    starts = np.arange(40) * S
    found = annotator.annotation(scores, starts, starts + S, Said.where(rng.random(40) < 0.9))
    whole = annotator.label_rows(annotator.mean_scores(found.tally.astype(np.float64), found.samples)).to_pylist()
    samples = found.rows["labels"].to_pylist()
    spans = [
        {
            "label": annotator.lineage.labels[run[0]],
            "start_us": run[1],
            "end_us": run[2],
            "score": run[3],
            "begun": run[5],
        }
        for run in found.notes
    ]
    spans = [span for span in spans if span["begun"]]
    pairs = [(child, parent) for child, above in parents.items() for parent in above]
    assert samples and whole and spans
    by_time: dict[int, dict[str, float]] = {}
    for row in samples:
        by_time.setdefault(row["start_us"], {})[row["label"]] = row["score"]
    for said in [*by_time.values(), {row["label"]: row["score"] for row in whole}]:
        for child, parent in pairs:
            if child in said:
                assert said[child] <= said[parent], (child, parent)
    for child, parent in pairs:
        for span in (one for one in spans if one["label"] == child):
            around = [
                one for one in spans
                if one["label"] == parent and one["start_us"] <= span["start_us"] and span["end_us"] <= one["end_us"]
            ]  # fmt: skip
            assert len(around) == 1 and span["score"] <= around[0]["score"], (span, parent)


def test_rows_of_parents_have_ids_and_no_rank(tmp_path: Path) -> None:
    annotator = scenes(tmp_path)
    scores = np.array([[0.62, 0.03, 0.35]], np.float32)
    rows = annotator.rows(scores_of(annotator, scores), np.array([0]), np.array([S]))
    told = [(row["label"], row["label_id"], row["rank"]) for row in rows.to_pylist()]
    assert told == [("attic", 0, 1), ("cave", 2, 2), ("indoors", 3, 0), ("nature", 4, 0), ("place", 5, 0)]
    assert pc.max(rows["score"]).as_py() == pytest.approx(0.97)


def scores_of(annotator: Scenes, scores: Any) -> Any:
    return annotator.lineage.scores(scores, exclusive=True)


def test_a_parent_is_said_where_its_children_together_are_likely(tmp_path: Path) -> None:
    """Not one of a hundred breeds, but certainly a dog."""
    breeds = [f"breed {i}" for i in range(100)]
    given = {**GIVEN, "parents": {name: ["dog"] for name in breeds}}
    annotator = Scenes.from_spec(written(tmp_path, "scenes", categories=breeds, taxonomy=given))
    scores = np.full((1, 100), 0.01, np.float32)
    rows = annotator.rows(scores_of(annotator, scores), np.array([0]), np.array([S])).to_pylist()
    assert [(row["label"], row["score"]) for row in rows] == [("dog", pytest.approx(1.0))]


def test_the_models_name_follows_its_taxonomy_and_a_file_may_bring_one(tmp_path: Path) -> None:
    plain = Scenes.from_spec(written(tmp_path, "scenes"))
    path = tmp_path / "places.json"
    path.write_text(json.dumps(GIVEN))
    with_file = plain.with_taxonomy(read_taxonomy(str(path)))
    assert plain.model_id != with_file.model_id == scenes(tmp_path).model_id
    fewer = replace(Taxonomy(**GIVEN), parents={"attic": ("indoors",)})
    assert plain.with_taxonomy(fewer).model_id not in (plain.model_id, with_file.model_id)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"parents": {"attic": ["indoors"], "indoors": ["house"], "house": ["indoors"]}}, "own ancestors: .*house"),
        ({"parents": {"attic": ["attic"]}}, "own ancestors: attic < attic"),
        ({"parents": {"atic": ["indoors"]}}, "'atic', 'indoors', are neither categories"),
        ({"parents": {}}, "at least 1"),
        ({"licence": ""}, "licence"),
        ({"source": None}, "source"),
        ({"more": 1}, "more"),
    ],
)
def test_what_is_no_taxonomy_of_a_network_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    url = written(tmp_path, "scenes", taxonomy={**GIVEN, **changes})
    with pytest.raises(WeightsError, match=message):
        resolve_weights(url)


def test_a_file_without_a_licence_is_refused_and_one_that_is_not_open_must_be_allowed(tmp_path: Path) -> None:
    path = tmp_path / "places.json"
    path.write_text(json.dumps({name: value for name, value in GIVEN.items() if name != "licence"}))
    with pytest.raises(WeightsError, match="is no taxonomy: licence"):
        read_taxonomy(str(path))
    path.write_text("[]")
    with pytest.raises(WeightsError, match="is no taxonomy"):
        read_taxonomy(str(path))
    url = written(tmp_path, "scenes", taxonomy={**GIVEN, "licence": "CC-BY-NC-4.0"})
    with pytest.raises(WeightsError, match="allow 'CC-BY-NC-4\\.0' by name"):
        resolve_weights(url)
    assert resolve_weights(url, allow_licences=["CC-BY-NC-4.0"]).taxonomy is not None


def test_a_run_takes_taxonomies_for_networks_that_label(tmp_path: Path) -> None:
    path = tmp_path / "motions.json"
    path.write_text(
        json.dumps({**GIVEN, "parents": {one: ["thing"] for one in resolve_weights("demo:actions").categories}})
    )
    given = {"archive": ("a",), "tables": "t", "annotators": ("actions", "quality"), "weights": {"actions": "demo"}}
    config = LabelConfig(**given, taxonomies=[f"actions={path}"])  # type: ignore[arg-type]
    chosen = chosen_annotators(config)
    assert list(chosen) == ["actions", "quality"] and chosen["actions"].lineage.labels[-1] == "thing"  # type: ignore[attr-defined]
    with pytest.raises(UsageError, match=r"only \['actions'\] may be given one"):
        chosen_annotators(LabelConfig(**given, taxonomies={"quality": str(path)}))  # type: ignore[arg-type]
    path.write_text(json.dumps(GIVEN))
    with pytest.raises(WeightsError, match=r"actions: the taxonomy does not fit .*'attic', .* leave it out$"):
        chosen_annotators(config)
    path.write_text(json.dumps({**GIVEN, "licence": "proprietary"}))
    with pytest.raises(WeightsError, match="allow 'proprietary' by name"):
        chosen_annotators(config)
