"""How others name their parameters, and which of their checkpoints fit our networks. Needs no torch.

A layout is a table of (pattern, replacement), applied in order to each name; an empty name leaves the tensor out.
pytorchvideo averages its scores over windows of 7x7 positions: at 224x224 that is our mean over all positions; at
256x256 its corners weigh less than ours, and scores differ in the second digit.
"""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from vidproc.models.zoo import ZOO

Renames = tuple[tuple[str, str], ...]

_PARALLEL: Renames = ((r"^module\.", ""),)
"""Saved from nn.DataParallel."""

_VIDEO_STAGES: Renames = (
    (r"^blocks\.(\d)\.res_blocks\.", r"layer\1."),
    (r"\.branch1_conv\.", ".downsample.0."),
    (r"\.branch1_norm\.", ".downsample.1."),
    *((rf"\.branch2\.conv_{letter}\.", f".conv{i}.0.") for i, letter in enumerate("abc", start=1)),
    *((rf"\.branch2\.norm_{letter}\.", f".conv{i}.1.") for i, letter in enumerate("abc", start=1)),
)

_FLAT_TO_NESTED: Renames = (
    (r"^conv1\.", "stem.0."),
    (r"^bn1\.", "stem.1."),
    (r"^(layer\d\.\d+)\.conv(\d)\.(net\.)?weight$", r"\1.conv\2.0.weight"),
    (r"^(layer\d\.\d+)\.bn(\d)\.", r"\1.conv\2.1."),
)
"""Blocks of clips named as those of pictures."""

LAYOUTS: Mapping[str, Renames] = {
    "torchvision": (*_PARALLEL, (r"\.(norm|conv)\.([12])\.", r".\1\2.")),  # DenseNet's as first published
    "akamaster": (*_PARALLEL, (r"^linear\.", "fc.")),
    "kenshohara": (*_PARALLEL, *_FLAT_TO_NESTED),
    "tsm": (
        *_PARALLEL,
        (r"^base_model\.", ""),
        (r"^new_fc\.", "fc."),
        *_FLAT_TO_NESTED,
    ),
    "pytorchvideo": (
        (r"^blocks\.0\.conv\.", "stem.0."),
        (r"^blocks\.0\.norm\.", "stem.1."),
        (r"^blocks\.5\.proj\.", "fc."),
        *_VIDEO_STAGES,
    ),
    "pytorchvideo_slowfast": (
        (r"^blocks\.(\d)\.multipathway_fusion\.conv_fast_to_slow\.", r"lateral.\1.0."),
        (r"^blocks\.(\d)\.multipathway_fusion\.norm\.", r"lateral.\1.1."),
        (r"^blocks\.(\d)\.multipathway_blocks\.0\.", r"slow.blocks.\1."),
        (r"^blocks\.(\d)\.multipathway_blocks\.1\.", r"fast.blocks.\1."),
        (r"^(slow|fast)\.blocks\.0\.conv\.", r"\1.stem.0."),
        (r"^(slow|fast)\.blocks\.0\.norm\.", r"\1.stem.1."),
        (r"^(slow|fast)\.blocks\.(\d)\.res_blocks\.", r"\1.layer\2."),
        *_VIDEO_STAGES[1:],
        (r"^blocks\.6\.proj\.", "fc."),
    ),
    "insightface": (*_PARALLEL, (r"\.prelu\.", ".act1."), (r"^prelu\.", "act1.")),
    "mobilefacenet": (
        *_PARALLEL,
        (r"^conv2\.", "expand."),
        (r"^dw_conv1\.", "conv2."),
        (r"^linear7\.", "weigh."),
        (r"^linear1\.", "project."),
        (r"^(conv1|conv2|expand|weigh|project)\.conv\.", r"\1.0."),
        (r"^(conv1|conv2|expand|weigh|project)\.bn\.", r"\1.1."),
        (r"^(conv1|conv2|expand|weigh|project)\.prelu\.", r"\1.2."),
        *(
            (rf"^blocks\.{first + i}\.", f"layer{stage}.{i}.")
            for stage, (first, count) in enumerate(((0, 5), (5, 1), (6, 6), (12, 1), (13, 2)), start=1)
            for i in range(count)
        ),
        *(
            (rf"^(layer\d\.\d)\.conv\.{3 * i + j}\.", rf"\1.{kind}{i + 1}.")
            for i in range(3)
            for j, kind in enumerate(("conv", "bn", "act"))
        ),
    ),
    "panns": (
        *_PARALLEL,
        (r"^(spectrogram_extractor|logmel_extractor)\..*", ""),
        (r"^fc_audioset\.", "fc."),
        *(
            (rf"^{theirs}\.{kind}{i + 1}\.", f"{ours}.{3 * i + j}.")
            for theirs, ours in (("conv_block1", "conv1"), ("conv_block_after1", "conv_last"))
            for i in range(2)
            for j, kind in enumerate(("conv", "bn"))
        ),
        (r"^resnet\.(layer[234]\.0)\.conv1\.", r"\1.conv1.1."),  # behind the pool that strides
        (r"^resnet\.", ""),
    ),
    "honk": (
        (r"^conv0\.", "stem_conv."),
        *((rf"^conv{2 * block + i}\.", f"layer1.{block}.conv{i}.") for block in range(3) for i in (1, 2)),
        (r"^bn1\.", "layer1.0.bn1."),
        *((rf"^bn{2 * block + i}\.", f"layer1.{block}.bn{i + 1}.") for block in (1, 2) for i in (0, 1)),
        (r"^bn6\.", "norm."),
        (r"^stem_conv\.", "conv1."),
        (r"^output\.", "fc."),
    ),
}
"""Name, as a sidecar's `layout` has it → table. "torchvision" is also ours."""


def our_name(name: str, layout: str) -> str:
    """A published parameter's name in our network; "" if our network has no use for it."""
    for pattern, replacement in LAYOUTS[layout]:
        name = re.sub(pattern, replacement, name)
    return name


@dataclass(frozen=True, kw_only=True)
class Published:
    """A checkpoint that others published. `accuracy`: the authors' own figure. `sha256`: all of it or its beginning.

    `spec`: how `--weights` calls it, where `named.py` knows what else its use needs. `md5`: where only that is told.
    """

    name: str
    architecture: str
    layout: str
    url: str
    licence: str
    accuracy: str = ""
    sha256: str = ""
    spec: str = ""
    md5: str = ""

    @property
    def is_file(self) -> bool:
        """Whether `url` is the checkpoint's own, and not that of a page."""
        return "." in self.url.rpartition("/")[2]


_PYTORCHVIDEO = "https://dl.fbaipublicfiles.com/pytorchvideo/model_zoo/kinetics/"
_AKAMASTER = "https://github.com/akamaster/pytorch_resnet_cifar10/raw/master/pretrained_models/"
_NOT_STATED = "not stated"
_KINETICS = "Kinetics-400 top-1"

PUBLISHED = (
    *(
        Published(
            name=f"akamaster resnet{depth}",
            architecture=f"cifar_resnet{depth}",
            layout="akamaster",
            url=f"{_AKAMASTER}resnet{depth}-{sha256}.th",
            licence="BSD-2-Clause",
            accuracy=f"CIFAR-10 top-1 {accuracy} %",
            sha256=sha256,
        )
        for depth, sha256, accuracy in (
            (20, "12fca82f", 91.73),
            (32, "d509ac18", 92.63),
            (56, "4bfd9763", 93.39),
        )
    ),
    *(
        Published(
            name=f"pytorchvideo {file}",
            architecture=architecture,
            layout=layout,
            url=f"{_PYTORCHVIDEO}{file}.pyth",
            licence="Apache-2.0",
            accuracy=f"{_KINETICS} {accuracy} %",
        )
        for architecture, file, layout, accuracy in (
            ("slow_r50", "SLOW_8x8_R50", "pytorchvideo", 74.58),
            ("slowfast_r50", "SLOWFAST_8x8_R50", "pytorchvideo_slowfast", 76.94),
            ("ir_csn_101", "CSN_32x2_R101", "pytorchvideo", 77.00),
        )
    ),
    Published(
        name="ig65m r2plus1d_34 clip32, fine-tuned on Kinetics",
        architecture="r2plus1d_34",
        layout="torchvision",
        url="https://github.com/moabitcoin/ig65m-pytorch/releases/download/v1.0.0/"
        "r2plus1d_34_clip32_ft_kinetics_from_ig65m-ade133f1.pth",
        licence="MIT",
        sha256="ade133f1",
    ),
    *(
        Published(
            name=f"places365 {architecture}",
            architecture=architecture,
            layout="torchvision",
            url=f"http://places2.csail.mit.edu/models_places365/{architecture}_places365.pth.tar",
            licence="CC-BY-4.0",
            spec=f"places365:{architecture}",
        )
        for architecture in ("resnet18", "resnet50", "densenet161")
    ),
    *(
        Published(
            name=f"PANNs {file}",
            architecture=architecture,
            layout="panns",
            url=f"https://zenodo.org/record/3987831/files/{file}.pth",
            licence="CC-BY-4.0",
            accuracy=f"AudioSet mAP {file[-5:]}",
            spec=architecture.replace("_", ":"),
            md5=md5,
        )
        for architecture, file, md5 in (
            ("panns_resnet22", "ResNet22_mAP=0.430", "cf36d413096793c4e15dc752a3abd599"),
            ("panns_resnet38", "ResNet38_mAP=0.434", "bf12f36aaabac4e0855e22d3c3239c1b"),
        )
    ),
    *(
        Published(
            name=f"kenshohara r3d{depth}_K_200ep",
            architecture=f"resnet3d_{depth}",
            layout="kenshohara",
            url="https://github.com/kenshohara/3D-ResNets-PyTorch",
            licence="MIT",
        )
        for depth in (18, 34, 50, 101, 152, 200)
    ),
    *(
        Published(
            name=f"insightface ms1mv3_arcface_r{depth}",
            architecture=f"ir_resnet{depth}",
            layout="insightface",
            url="https://github.com/deepinsight/insightface/tree/master/recognition/arcface_torch",
            licence="non-commercial",
        )
        for depth in (18, 34, 50, 100)
    ),
    Published(
        name="MobileFaceNet_Pytorch 068.ckpt",
        architecture="mobilefacenet",
        layout="mobilefacenet",
        url="https://github.com/Xiaoccer/MobileFaceNet_Pytorch/raw/master/model/best/068.ckpt",
        licence=_NOT_STATED,
        accuracy="LFW 99.30 %",
        sha256="e839247cdbdfc023fb7cadeaf53a4549d50c8fc24ad154c02e35920ea8910d99",
    ),
    Published(
        name="honk-models res8_narrow.pt",
        architecture="res8_narrow",
        layout="honk",
        url="https://github.com/castorini/honk-models",
        licence=_NOT_STATED,
        accuracy="Speech Commands 12-way top-1 90.1 %",
        sha256="1ccdc7d298a1c8927e3991945d9cc8db27dd2a12d2b86a994810231013648147",
        spec="honk:res8_narrow",
    ),
    Published(
        name="TSM kinetics RGB resnet50 8 segments",
        architecture="tsm_r50",
        layout="tsm",
        url="https://github.com/mit-han-lab/temporal-shift-module",
        licence="MIT",
        accuracy=f"{_KINETICS} 74.1 %",
    ),
)


def published_for(architecture: str) -> list[dict[str, Any]]:
    """The checkpoints known for a network of the zoo, torchvision's first, as plain objects."""
    listed = [*_torchvision(architecture), *(one for one in PUBLISHED if one.architecture == architecture)]
    return [asdict(one) for one in listed]


def _torchvision(architecture: str) -> list[Published]:
    from torchvision.models import get_model_weights, list_models

    if architecture not in ZOO or architecture not in list_models():
        return []
    return [
        Published(
            name=str(entry),
            architecture=architecture,
            layout="torchvision",
            url=entry.url,
            licence="BSD-3-Clause",
            accuracy="; ".join(f"{data} top-1 {scores['acc@1']} %" for data, scores in entry.meta["_metrics"].items()),
            sha256=entry.url.rsplit("-", 1)[-1].removesuffix(".pth"),
        )
        for entry in get_model_weights(architecture)
    ]
