"""A checkpoint that carries code is refused before it runs, in every form and wherever a checkpoint is read."""

import ast
import hashlib
import io
import json
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray.train
import torch
from annotators.random_weights import SIDECARS, shared_by_tests
from made_faces import random_recogniser
from security.payloads import FORMS, Payload

import vidproc
from vidproc.annotators import ANNOTATORS
from vidproc.command import parse
from vidproc.errors import UsageError, WeightsError
from vidproc.models.embedding import load_embedder
from vidproc.models.initial import begin_with
from vidproc.models.load import load_restorer, load_saved
from vidproc.models.mtcnn import Mtcnn
from vidproc.models.recogniser import resolve_recogniser
from vidproc.models.restorer import resolve_restorer
from vidproc.models.sidecar import DEMO, Checkpoint
from vidproc.models.zoo import spec_of
from vidproc.pipeline.options import LabelConfig
from vidproc.train.labelled import from_folders
from vidproc.train.result import save_result
from vidproc.train.worker import _Training

pytestmark = pytest.mark.filterwarnings("ignore")  # a warning that ends a test is no refusal
ENDINGS = (".pt", ".pth", ".th", ".pyth", ".ckpt", ".pth.tar", ".safetensors")


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    return tmp_path / "attacked"


def planted(folder: Path, sidecar: dict[str, Any], data: bytes, ending: str = ".pt") -> str:
    """A checkpoint whose sidecar promises exactly these bytes; returns its URL."""
    path = folder / f"network{ending}"
    path.write_bytes(data)
    about = {"licence": "MIT", "provenance": "somebody", **sidecar, "sha256": hashlib.sha256(data).hexdigest()}
    path.with_name(f"{path.name}.json").write_text(json.dumps(about))
    return str(path)


def sidecar_at(url: str | Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(f"{url}.json").read_text())
    return found


def test_the_payloads_work(tmp_path: Path) -> None:
    """A reader without care runs them: else the tests below would prove nothing."""
    for name in ("zip", "before zip", "builtins.open", "io.open"):
        mark = tmp_path / name
        with pytest.MonkeyPatch.context() as patch:
            patch.delenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", raising=False)
            torch.load(io.BytesIO(FORMS[name](mark)), weights_only=False)
        assert mark.exists(), name


@pytest.mark.parametrize("form", FORMS)
def test_no_form_is_loaded(tmp_path: Path, mark: Path, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")  # somebody's habit must not open the door
    for ending in ENDINGS:
        url = planted(tmp_path, {}, FORMS[form](mark), ending)
        with pytest.raises(WeightsError, match="no plain checkpoint"):
            load_saved(Checkpoint(**sidecar_at(url), url=url))
        assert not mark.exists()


def labels_with(name: str, sidecar: dict[str, Any]) -> Callable[[Path, bytes], object]:
    return lambda folder, data: ANNOTATORS[name](planted(folder, sidecar, data)).load("cpu")


def faces_with(which: str) -> Callable[[Path, bytes], object]:
    """The recogniser of the tests, with one of its files replaced."""

    def load(folder: Path, data: bytes) -> object:
        told = json.loads(Path(random_recogniser()).read_text())
        beside = Path(random_recogniser()).parent
        bad = planted(folder, sidecar_at(beside / "embedder.pt"), data)
        pinned = {"url": bad, "sha256": hashlib.sha256(data).hexdigest()}
        told["embedder"] = {**told["embedder"], "url": str(beside / "embedder.pt")}
        (told if which == "embedder" else told["detector"])[which] = pinned
        (folder / "faces.json").write_text(json.dumps(told))
        recogniser = resolve_recogniser(str(folder / "faces.json"))
        return load_embedder(recogniser.embedder, "cpu") if which == "embedder" else Mtcnn(recogniser.detector, "cpu")

    return load


def begun_with(folder: Path, data: bytes) -> object:
    from vidproc.models.build import build

    url = planted(folder, sidecar_at(DEMO / "objects.safetensors"), data)
    return begin_with(build(spec_of("resnet18"), classes=2), url)


def fused_with(folder: Path, data: bytes) -> object:
    return labels_with("fusion", sidecar_at(shared_by_tests("fusion")))(folder, data)


READERS: dict[str, Callable[[Path, bytes], object]] = {
    "actions": labels_with("actions", sidecar_at(DEMO / "actions.safetensors")),
    "objects": labels_with("objects", sidecar_at(DEMO / "objects.safetensors")),
    "detections": labels_with("detections", sidecar_at(DEMO / "detections.safetensors")),
    "embeddings": labels_with("embeddings", sidecar_at(DEMO / "actions.safetensors")),
    "scenes": labels_with("scenes", {"options": {"depths": [1, 1], "widths": [4, 8]}, **SIDECARS["scenes"]}),
    "sounds": labels_with("sounds", {"options": {"depths": [1, 1], "widths": [4, 8]}, **SIDECARS["sounds"]}),
    "fusion": fused_with,
    "restore": lambda folder, data: load_restorer(
        resolve_restorer(planted(folder, sidecar_at(DEMO / "restore.safetensors"), data)), "cpu"
    ),
    "faces: pnet": faces_with("pnet"),
    "faces: rnet": faces_with("rnet"),
    "faces: onet": faces_with("onet"),
    "faces: embedder": faces_with("embedder"),
    "train --init": begun_with,
}


def test_every_annotator_with_weights_is_tried() -> None:
    without = {"ocr", "quality", "shots", "text"}
    assert {name.partition(":")[0] for name in READERS} - {"restore", "train --init"} == set(ANNOTATORS) - without


@pytest.mark.parametrize("reader", READERS)
def test_no_reader_runs_it(tmp_path: Path, mark: Path, reader: str) -> None:
    with pytest.raises(WeightsError, match="no plain checkpoint"):
        READERS[reader](tmp_path, FORMS["zip"](mark))
    assert not mark.exists()


@pytest.mark.parametrize("form", FORMS)
def test_a_training_does_not_resume_from_it(tmp_path: Path, mark: Path, form: str) -> None:
    """Whoever may write to `--out` may plant what the next start of the training finds there."""
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "training.pt").write_bytes(FORMS[form](mark))
    checkpoint = ray.train.Checkpoint.from_directory(str(tmp_path / "checkpoint"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray.train, "get_checkpoint", lambda: checkpoint)
        with pytest.raises((pickle.UnpicklingError, RuntimeError)):
            _Training._resume(SimpleNamespace(device="cpu"))
    with pytest.raises((pickle.UnpicklingError, RuntimeError)):
        save_result(None, None, None, None, checkpoint)
    assert not mark.exists()


def test_training_data_is_not_unpickled(tmp_path: Path, mark: Path) -> None:
    """WebDataset's own readers unpickle members by their ending."""
    video = (Path(__file__).parent / "payloads.py").read_bytes()  # a listing does not look inside
    members = {
        f"0.{ending}": pickle.dumps(Payload(mark)) for ending in ("pkl", "pickle", "pyd", "pth", "pt", "npy", "npz")
    }
    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        for name, data in {"0.mp4": video, "0.json": b'{"label": "cat"}', **members}.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    (found,) = from_folders(str(tmp_path / "shard.tar"))
    assert (found.source.member, found.label) == ("0.mp4", "cat")
    assert not mark.exists()


@pytest.mark.parametrize(
    "tag",
    ["!!python/object/apply:pathlib.Path.touch [{mark}]", "!!python/object/new:os.system ['touch {mark}']",
     "!!python/name:os.system", "!!python/module:os"],
)  # fmt: skip
def test_yaml_builds_no_objects(tmp_path: Path, mark: Path, tag: str) -> None:
    path = tmp_path / "night.yaml"
    path.write_text(f"tables: out\narchive: {tag.format(mark=mark)}\n")
    with pytest.raises(UsageError, match="cannot be read as YAML"):
        parse(LabelConfig, None, ["--config", str(path)])
    assert not mark.exists()


FORBIDDEN = {
    "pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "pandas", "jsonpickle",
}  # fmt: skip


def test_nothing_else_reads_what_could_carry_code() -> None:
    """No other reader of pickles has come in since: every call in the code is looked at."""
    root = Path(vidproc.__file__).parents[1]
    for path in [*root.glob("vidproc/**/*.py"), *root.glob("jobs/*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            where = f"{path.relative_to(root)}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {alias.name for alias in node.names} | {getattr(node, "module", None) or ""}
                assert not {name.split(".")[0] for name in names} & FORBIDDEN, where
                assert "cloudpickle" not in ".".join(names), where
            elif isinstance(node, ast.Call):
                _check_call(ast.unparse(node.func), {one.arg: ast.unparse(one.value) for one in node.keywords}, where)


def _check_call(name: str, keywords: dict[str | None, str], where: str) -> None:
    assert name not in ("eval", "exec", "torch.jit.load", "torch.hub.load", "torch.package.PackageImporter"), where
    assert not name.startswith(("yaml.load", "yaml.unsafe", "yaml.full")), where
    if name == "torch.load":
        assert keywords.get("weights_only") == "True", where
    if name in ("np.load", "numpy.load"):
        assert keywords.get("allow_pickle", "False") == "False", where
    assert "add_safe_globals" not in name and "safe_globals" not in name, where
