"""Published checkpoints by name, or by a sidecar that `describe` writes: fetched once, and checked."""

import hashlib
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest
import torch

from vidproc.annotators.scenes import Scenes
from vidproc.annotators.sounds import Sounds
from vidproc.errors import WeightsError
from vidproc.models import named
from vidproc.models.build import build
from vidproc.models.checkpoints import PUBLISHED, Published
from vidproc.models.describe import describe
from vidproc.models.load import load_network
from vidproc.models.named import NAMED, USES, names_listed
from vidproc.models.spectrum import PANNS
from vidproc.models.weights import resolve_weights, view_kind
from vidproc.models.zoo import ZOO
from vidproc.views import Frames, Picture

PLACES = "".join(f"/p/place_{i}{'/indoor' if i == 7 else ''} {i}\n" for i in range(365))
SERVER = "memory://published"


def checkpoint(path: Path, architecture: str, classes: int, *, prefix: str = "module.") -> bytes:
    """Random parameters as a training script of 2017 saved them: in the old format, under nn.DataParallel's names."""
    torch.manual_seed(0)
    state = build(ZOO[architecture].spec, classes=classes).state_dict()
    saved = {
        "epoch": 90,
        "arch": architecture,
        "best_prec1": torch.tensor(54.2),
        "state_dict": {f"{prefix}{name}": value for name, value in state.items()},
    }
    torch.save(saved, path, _use_new_zipfile_serialization=False)
    return path.read_bytes()


def serve(
    monkeypatch: pytest.MonkeyPatch, cache: Path, spec: str, data: bytes, categories: str, **changes: str
) -> Published:
    """Have a name's checkpoint and categories lie on a server of the test's."""
    monkeypatch.setenv("VIDPROC_CACHE", str(cache))
    family = spec.partition(":")[0]
    one = replace(NAMED[spec], url=f"{SERVER}/{spec.replace(':', '-')}.pth.tar", **changes)
    memory = fsspec.filesystem("memory")
    memory.pipe(one.url.removeprefix("memory:/"), data)
    memory.pipe("/published/categories.txt", categories.encode())
    monkeypatch.setattr(named, "NAMED", {**NAMED, spec: one})
    monkeypatch.setattr(named, "USES", {**USES, family: replace(USES[family], categories=f"{SERVER}/categories.txt")})
    return one


def test_places_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = checkpoint(tmp_path / "saved", "resnet18", 365)
    one = serve(monkeypatch, tmp_path / "cache", "places365:resnet18", data, PLACES)
    weights = Scenes.from_spec("places365:resnet18").weights
    assert weights.sha256 == hashlib.sha256(data).hexdigest()
    assert (len(weights.categories), weights.categories[7]) == (365, "place_7/indoor")
    assert weights.view == Frames(fps=1, picture=Picture(resize=256, crop=(224, 224)))
    assert weights.mean == (0.485, 0.456, 0.406)
    assert weights.licence == "CC-BY-4.0"
    fsspec.filesystem("memory").rm("/published", recursive=True)
    again = resolve_weights("places365:resnet18")  # from the cache, like the loading after it
    assert again == weights
    assert torch.equal(load_network(again).fc.weight, torch.load(tmp_path / "saved")["state_dict"]["module.fc.weight"])
    fsspec.filesystem("memory").pipe(one.url.removeprefix("memory:/"), b"other bytes")
    for kept in (tmp_path / "cache" / "weights").iterdir():
        kept.unlink()
    with pytest.raises(WeightsError, match="was altered or cut short"):
        resolve_weights("places365:resnet18")


AUDIOSET = "index,mid,display_name\n" + "".join(
    f'{i},/m/{i},"{"Silence" if i == 500 else f"Sound, {i}"}"\n' for i in reversed(range(527))
)


def test_sounds_by_name_are_held_against_the_published_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    torch.save({"model": {"fc_audioset.weight": torch.zeros(1)}}, tmp_path / "saved")
    data = (tmp_path / "saved").read_bytes()
    md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
    serve(monkeypatch, tmp_path / "cache", "panns:resnet38", data, AUDIOSET, md5=md5)
    annotator = Sounds.from_spec("panns:resnet38")
    assert annotator.weights.multi_label and annotator.listening.spectrum == PANNS
    assert annotator.weights.categories[3] == "Sound, 3" and annotator.silence == 500
    serve(monkeypatch, tmp_path / "other", "panns:resnet38", data + b" ", AUDIOSET, md5=md5)
    with pytest.raises(WeightsError, match=f"but {md5} was published"):
        resolve_weights("panns:resnet38")
    assert not (tmp_path / "other").exists(), "what is not it is not kept"


def test_every_name_fits_its_network() -> None:
    assert set(NAMED) == {one.spec for one in PUBLISHED if one.spec}
    for spec, one in NAMED.items():
        use = USES[spec.partition(":")[0]]
        assert isinstance(use.view, view_kind(ZOO[one.architecture].spec))
        assert use.classes in (365, ZOO[one.architecture].classes)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("places365:vgg16", r"use one of \['honk:res8_narrow', 'panns:resnet22', .*'places365:resnet50'\]"),
        ("honk:res8_narrow", r"get the file from https://.*python -m vidproc.models.describe honk:res8_narrow FILE"),
    ],
)
def test_what_has_no_such_name_says_what_there_is(spec: str, message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        resolve_weights(spec)


def test_categories_that_are_not_all_there_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch, tmp_path / "cache", "places365:resnet18", b"checkpoint", "<html>moved</html>\n")
    with pytest.raises(WeightsError, match="has 1 names; it must have 365"):
        resolve_weights("places365:resnet18")


def test_a_file_got_by_hand_is_described(tmp_path: Path) -> None:
    file = tmp_path / "resnet18_places365.pth.tar"
    checkpoint(file, "resnet18", 365)
    (tmp_path / "names.txt").write_text(PLACES)
    command = [sys.executable, "-m", "vidproc.models.describe", "places365:resnet18", str(file)]
    done = subprocess.run(
        [*command, "--categories", str(tmp_path / "names.txt")], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, f"{file}.json"), done.stderr
    weights = Scenes.from_spec(str(file)).weights
    assert weights.categories[364] == "place_364" and load_network(weights).fc.out_features == 365
    assert json.loads(Path(f"{file}.json").read_text())["provenance"].startswith("places365 resnet18; Zhou et al. 2017")
    wrong = subprocess.run([*command[:-1], str(tmp_path / "none.pth")], capture_output=True, text=True, check=False)
    assert wrong.returncode == 2 and "get the checkpoint from http" in wrong.stderr
    with pytest.raises(WeightsError, match=re.escape("is not what was published as panns:resnet22")):
        describe("panns:resnet22", file)


def test_lists_of_names() -> None:
    assert names_listed("/b/bay 1\n/a/attic/indoor 0\n") == ("attic/indoor", "bay")
    assert names_listed('index,mid,display_name\n1,/m/b,Bark\n0,/m/a,"Speech, male"\n') == ("Speech, male", "Bark")
    assert names_listed("cat\n\n dog \n") == ("cat", "dog")
