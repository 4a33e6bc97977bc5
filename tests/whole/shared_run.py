"""One run of the label job with every annotator over all of the shared data: its weights, its gallery, its command.

    python tests/whole/shared_run.py OUT [--limit N]

Works on in OUT if that is there already. What the labels mean differs: `objects` (a ResNet-56 of CIFAR-10), `sounds`
(honk's keywords) and `faces` (MTCNN, MobileFaceNet) have real weights, `actions`, `detections` and `embeddings` the
demo's, which know drawn shapes. `scenes` and `fusion` have random ones: they prove the plumbing, and say nothing.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))

from annotators.random_weights import fusion_written, written
from made_faces import SHARED, real_description, sha256

from vidproc.annotators import ANNOTATORS
from vidproc.models.describe import describe
from vidproc.models.recogniser import resolve_recogniser
from vidproc.pipeline.enrolment import enrol

JOB = Path(__file__).parents[2] / "jobs" / "label.py"
LEFT_OUT = ("images/cifar10_*",)
"""12,000 pictures of 32 pixels, of which `CIFAR` come in a shard of their own."""
CIFAR = 200
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
ENROLLED = {
    "Barack Obama": "known/obama.jpg",
    "Joe Biden": "known/biden.jpg",
    "Kit Harington": "known/kit_harington_john1.jpeg",
    "Rose Leslie": "known/rose_leslie_img1.jpg",
    "Alex Lacamoire": "known/alex_lacamoire_img1.jpg",
    "Ariel Sharon": "lfw10x10/Ariel_Sharon/Ariel_Sharon_0001.jpg",
    "Arnold Schwarzenegger": "lfw10x10/Arnold_Schwarzenegger/Arnold_Schwarzenegger_0001.jpg",
    "George W Bush": "lfw10x10/George_W_Bush/George_W_Bush_0001.jpg",
    "Gerhard Schroeder": "lfw10x10/Gerhard_Schroeder/Gerhard_Schroeder_0001.jpg",
    "Jacques Chirac": "lfw10x10/Jacques_Chirac/Jacques_Chirac_0001.jpg",
    "Tony Blair": "lfw10x10/Tony_Blair/Tony_Blair_0002.jpg",  # the first shows two faces
    "Vladimir Putin": "lfw10x10/Vladimir_Putin/Vladimir_Putin_0001.jpg",
}
"""Who is in the gallery, by one photo each; their other photos are probes."""
PURPOSE = "a test of all annotators together"


def weights(folder: Path) -> dict[str, str]:
    """Weights of every annotator that has any, described in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    honk = Path(shutil.copy(SHARED / "weights" / "honk_res8_narrow.pt", folder))
    describe("honk:res8_narrow", honk)
    return {
        **dict.fromkeys(("actions", "detections", "embeddings"), "demo"),
        "objects": _cifar_network(folder),
        "scenes": written(folder, "scenes"),
        "sounds": str(honk),
        "fusion": fusion_written(folder),
        "faces": real_description(folder / "faces"),
    }


def _cifar_network(folder: Path) -> str:
    path = Path(shutil.copy(SHARED / "weights" / "akamaster_cifar10_resnet56-4bfd9763.th", folder))
    sidecar = {
        "sha256": sha256(path),
        "licence": "BSD-2-Clause",
        "provenance": "akamaster/pytorch_resnet_cifar10",
        "architecture": "cifar_resnet56",
        "layout": "akamaster",
        "categories": CLASSES,
        "view": {"kind": "frames", "fps": 1, "picture": {"resize": [32, 32]}},
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
    }
    path.with_name(f"{path.name}.json").write_text(json.dumps(sidecar))
    return str(path)


def gallery(url: str, description: str) -> str:
    """Everybody of `ENROLLED`, by the code of `jobs/maintain.py gallery add`."""
    recogniser = resolve_recogniser(description, allow_licences=["not stated"])
    for name, photo in ENROLLED.items():
        enrol(url, name, [str(SHARED / "faces" / photo)], consent="a test", recogniser=recogniser)
    return url


def cifar_shard(path: Path) -> Path:
    """A tar shard of pictures that the networks of CIFAR-10 were not trained on, named by their class."""
    with tarfile.open(SHARED / "images" / "cifar10_test2000_jpeg.tar.gz") as packed, tarfile.open(path, "w") as shard:
        members = [member for member in packed if member.isfile() and member.name.endswith((".jpg", ".jpeg"))]
        for member in members[:: len(members) // CIFAR][:CIFAR]:
            shard.addfile(member, packed.extractfile(member))
    return path


def command(out: Path) -> list[str]:
    """The job's command line; makes below `out` what it needs."""
    named, people, shard = weights(out / "weights"), out / "gallery", out / "cifar.tar"
    if not people.exists():
        gallery(str(people), named["faces"])
    if not shard.exists():  # once: a version of it is told by its time
        cifar_shard(shard)
    return [
        sys.executable, str(JOB), "--archive", str(SHARED), str(shard), "--exclude", *LEFT_OUT,
        "--tables", str(out / "tables"), "--annotators", ",".join(ANNOTATORS),
        "--weights", *(f"{name}={url}" for name, url in named.items()), "--allow-licences", "not stated",
        "--gallery", str(people), "--purpose", PURPOSE, "--segment-seconds-limit", "600",
    ]  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--limit", default=None, help="as of jobs/label.py")
    asked = parser.parse_args()
    more = ["--limit", asked.limit] if asked.limit else []
    return subprocess.run([*command(asked.out), *more], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
