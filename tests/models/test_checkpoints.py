"""Checkpoints that others published: their names become ours, and real ones give what a plain forward pass gives."""

import re
import tarfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from vidproc.models.build import Network, build
from vidproc.models.checkpoints import LAYOUTS, PUBLISHED, our_name, published_for
from vidproc.models.load import named_state
from vidproc.models.sidecar import _ENDINGS
from vidproc.models.spectrogram import Spectrogram
from vidproc.models.spectrum import HONK, PANNS
from vidproc.models.zoo import ZOO

SHARED = Path(__file__).parents[3] / "shared" / "data"
WEIGHTS = SHARED / "weights"
State = dict[str, Tensor]


def published_state(file: str) -> State:
    """The parameters as they were published."""
    if not (WEIGHTS / file).exists():
        pytest.skip(f"{WEIGHTS / file} is not there")
    state = torch.load(WEIGHTS / file, map_location="cpu", weights_only=True)
    for key in ("state_dict", "net_state_dict"):
        state = state.get(key, state)
    return {name.removeprefix("module."): value for name, value in state.items()}


def loaded(architecture: str, file: str, layout: str) -> Network:
    published_state(file)
    network = build(ZOO[architecture].spec, classes=ZOO[architecture].classes)
    state = torch.load(WEIGHTS / file, map_location="cpu", weights_only=True)
    network.load_state_dict(named_state(state, layout=layout, network=network), strict=True)
    return network.eval()


def norm(x: Tensor, state: State, name: str) -> Tensor:
    scale, shift = state.get(f"{name}.weight"), state.get(f"{name}.bias")
    return F.batch_norm(x, state[f"{name}.running_mean"], state[f"{name}.running_var"], scale, shift)


# ---- CIFAR


def cifar(count: int) -> tuple[Tensor, list[str]]:
    """Pictures float32 [count, 3, 32, 32], normalised as the authors did, and the names of their classes."""
    archive = SHARED / "images" / "cifar10_test2000_jpeg.tar.gz"
    if not archive.exists():
        pytest.skip(f"{archive} is not there")
    pictures, names = [], []
    with tarfile.open(archive) as tar:
        members = [member for member in tar if member.isfile() and member.name.endswith((".jpg", ".jpeg"))]
        for member in members[:: len(members) // count][:count]:
            file = tar.extractfile(member)
            assert file is not None
            with av.open(BytesIO(file.read())) as container:
                pictures.append(next(container.decode(video=0)).to_ndarray(format="rgb24"))
            names.append(Path(member.name).parent.name)
    x = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    return (x - mean) / std, names


def reference_cifar_resnet(x: Tensor, state: State) -> Tensor:
    """He et al. 2016, section 4.2, written down straight from the published names."""
    x = F.relu(norm(F.conv2d(x, state["conv1.weight"], padding=1), state, "bn1"))
    blocks = sorted(
        {m[0] for name in state if (m := re.match(r"layer(\d)\.(\d+)\.", name))},
        key=lambda s: [int(v) for v in re.findall(r"\d+", s)],
    )
    for block in blocks:
        first, second = state[f"{block}conv1.weight"], state[f"{block}conv2.weight"]
        stride = 1 if first.shape[0] == x.shape[1] else 2
        y = F.relu(norm(F.conv2d(x, first, stride=stride, padding=1), state, f"{block}bn1"))
        y = norm(F.conv2d(y, second, padding=1), state, f"{block}bn2")
        if stride == 2:
            added = (first.shape[0] - x.shape[1]) // 2
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, added, added))
        x = F.relu(y + x)
    return F.linear(F.adaptive_avg_pool2d(x, 1).flatten(1), state["linear.weight"], state["linear.bias"])


@pytest.mark.parametrize(
    ("depth", "file"), [(20, "resnet20-12fca82f"), (32, "resnet32-d509ac18"), (56, "resnet56-4bfd9763")]
)
def test_akamaster_s_cifar_networks_bit_for_bit(depth: int, file: str) -> None:
    file = f"akamaster_cifar10_{file}.th"
    network, state = loaded(f"cifar_resnet{depth}", file, "akamaster"), published_state(file)
    x, names = cifar(100)
    with torch.inference_mode():
        scores = network(x)
        assert torch.equal(scores, reference_cifar_resnet(x, state))
    order = sorted(set(names))  # the authors' classes are CIFAR's own, which stand in the alphabet's order
    right = sum(order[int(best)] == name for best, name in zip(scores.argmax(1), names, strict=True))
    assert right >= 70  # 81 to 83 of 100 on JPEG pictures


# ---- faces


def reference_mobilefacenet(x: Tensor, state: State) -> Tensor:
    """Chen et al. 2018, table 1, written down straight from the published names."""

    def step(x: Tensor, name: str, *, linear: bool = False, **conv: Any) -> Tensor:
        x = norm(F.conv2d(x, state[f"{name}.conv.weight"], **conv), state, f"{name}.bn")
        return x if linear else F.prelu(x, state[f"{name}.prelu.weight"])

    x = step(x, "conv1", stride=2, padding=1)
    x = step(x, "dw_conv1", padding=1, groups=64)
    strides = [2, 1, 1, 1, 1, 2, 1, 1, 1, 1, 1, 1, 2, 1, 1]
    for i, stride in enumerate(strides):
        name = f"blocks.{i}.conv"
        y = F.prelu(norm(F.conv2d(x, state[f"{name}.0.weight"]), state, f"{name}.1"), state[f"{name}.2.weight"])
        deep = F.conv2d(y, state[f"{name}.3.weight"], stride=stride, padding=1, groups=y.shape[1])
        y = F.prelu(norm(deep, state, f"{name}.4"), state[f"{name}.5.weight"])
        y = norm(F.conv2d(y, state[f"{name}.6.weight"]), state, f"{name}.7")
        x = y + x if stride == 1 and x.shape == y.shape else y
    x = step(x, "conv2")
    x = step(x, "linear7", linear=True, groups=512)
    return step(x, "linear1", linear=True).flatten(1)


def faces(count: int) -> Tensor:
    folder = SHARED / "faces" / "lfw10x10"
    if not folder.exists():
        pytest.skip(f"{folder} is not there")
    pictures = []
    for path in sorted(folder.rglob("*.jpg"))[:count]:
        with av.open(str(path)) as container:
            frame = next(container.decode(video=0)).reformat(96, 112, "rgb24")
            pictures.append(frame.to_ndarray())
    return (torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() - 127.5) / 128


def test_mobilefacenet_bit_for_bit() -> None:
    file = "mobilefacenet_xiaoccer_068.ckpt"
    network, state = loaded("mobilefacenet", file, "mobilefacenet"), published_state(file)
    x = faces(8)
    with torch.inference_mode():
        found = network(x)
        assert found.shape == (8, 128)
        assert torch.equal(found, reference_mobilefacenet(x, state))


# ---- speech

KEYWORDS = ("silence", "unknown", "yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")


def second_of(file: str) -> Tensor:
    """One second of sound: float32 [1, 16000] in -1..1, cut or filled with silence."""
    if not (SHARED / "audio" / file).exists():
        pytest.skip(f"{SHARED / 'audio' / file} is not there")
    resampler = av.AudioResampler(format="flt", layout="mono", rate=HONK.rate)
    with av.open(str(SHARED / "audio" / file)) as container:
        frames = [out for frame in container.decode(audio=0) for out in resampler.resample(frame)]
    sound = torch.from_numpy(np.concatenate([frame.to_ndarray()[0] for frame in frames]))[: HONK.rate]
    return F.pad(sound, (0, HONK.rate - len(sound)))[None]


def reference_res8(x: Tensor, state: State) -> Tensor:
    """Tang and Lin 2018, figure 1, written down straight from the published names."""
    x = old = F.avg_pool2d(F.relu(F.conv2d(x, state["conv0.weight"], padding=1)), (4, 3))
    for i in range(1, 7):
        x = F.relu(F.conv2d(x, state[f"conv{i}.weight"], padding=1))
        if i % 2 == 0:
            x = old = x + old
        x = norm(x, state, f"bn{i}")
    return F.linear(x.flatten(2).mean(2), state["output.weight"], state["output.bias"])


def test_res8_narrow_hears_keywords_bit_for_bit() -> None:
    network, state = loaded("res8_narrow", "honk_res8_narrow.pt", "honk"), published_state("honk_res8_narrow.pt")
    expected = {"yes_1000ms.wav": "yes", "no_1000ms.wav": "no", "marvin_617de221_0.wav": "unknown"}
    hiss = torch.randn(1, HONK.rate, generator=torch.Generator().manual_seed(0)) / 1000
    sounds = torch.cat([*map(second_of, expected), hiss])
    with torch.inference_mode():
        features = Spectrogram(HONK)(sounds)
        assert features.shape == (4, 1, 101, 40)
        scores = network(features)
        assert torch.equal(scores, reference_res8(features, state))
    best = [KEYWORDS[int(i)] for i in scores.argmax(1)]
    assert best == [*expected.values(), "silence"]
    assert float(scores.softmax(1).max(1).values.min()) > 0.8


# ---- layouts whose checkpoints are not here: every name of ours is met by one of theirs


def renamed(name: str, table: list[tuple[str, str]]) -> str:
    for pattern, replacement in table:
        name = re.sub(pattern, replacement, name)
    return name


BACK: dict[str, tuple[str, list[tuple[str, str]]]] = {
    "kenshohara": (
        "resnet3d_50",
        [
            (r"^stem\.0\.", "module.conv1."),
            (r"^stem\.1\.", "module.bn1."),
            (r"\.conv(\d)\.0\.", r".conv\1."),
            (r"\.conv(\d)\.1\.", r".bn\1."),
            (r"^(layer|fc)", r"module.\1"),
        ],
    ),
    "tsm": (
        "tsm_r50",
        [
            (r"^stem\.0\.", "module.base_model.conv1."),
            (r"^stem\.1\.", "module.base_model.bn1."),
            (r"\.conv1\.0\.", ".conv1.net."),
            (r"\.conv([23])\.0\.", r".conv\1."),
            (r"\.conv(\d)\.1\.", r".bn\1."),
            (r"^layer", "module.base_model.layer"),
            (r"^fc\.", "module.new_fc."),
        ],
    ),
    "pytorchvideo": (
        "slow_r50",
        [
            (r"^stem\.0\.", "blocks.0.conv."),
            (r"^stem\.1\.", "blocks.0.norm."),
            (r"^layer(\d)\.(\d+)\.", r"blocks.\1.res_blocks.\2."),
            (r"\.downsample\.0\.", ".branch1_conv."),
            (r"\.downsample\.1\.", ".branch1_norm."),
            *((rf"\.conv{i}\.0\.", f".branch2.conv_{c}.") for i, c in enumerate("abc", start=1)),
            *((rf"\.conv{i}\.1\.", f".branch2.norm_{c}.") for i, c in enumerate("abc", start=1)),
            (r"^fc\.", "blocks.5.proj."),
        ],
    ),
    "pytorchvideo_slowfast": (
        "slowfast_r50",
        [
            *(
                (rf"^{path}\.stem\.0\.", f"blocks.0.multipathway_blocks.{i}.conv.")
                for i, path in enumerate(("slow", "fast"))
            ),
            *(
                (rf"^{path}\.stem\.1\.", f"blocks.0.multipathway_blocks.{i}.norm.")
                for i, path in enumerate(("slow", "fast"))
            ),
            *(
                (rf"^{path}\.layer(\d)\.(\d+)\.", rf"blocks.\1.multipathway_blocks.{i}.res_blocks.\2.")
                for i, path in enumerate(("slow", "fast"))
            ),
            (r"^lateral\.(\d)\.0\.", r"blocks.\1.multipathway_fusion.conv_fast_to_slow."),
            (r"^lateral\.(\d)\.1\.", r"blocks.\1.multipathway_fusion.norm."),
            (r"\.downsample\.0\.", ".branch1_conv."),
            (r"\.downsample\.1\.", ".branch1_norm."),
            *((rf"\.conv{i}\.0\.", f".branch2.conv_{c}.") for i, c in enumerate("abc", start=1)),
            *((rf"\.conv{i}\.1\.", f".branch2.norm_{c}.") for i, c in enumerate("abc", start=1)),
            (r"^fc\.", "blocks.6.proj."),
        ],
    ),
    "insightface": ("ir_resnet50", [(r"act1\.", "prelu.")]),
    "panns": (
        "panns_resnet38",
        [
            (r"^conv1\.0\.", "conv_block1.conv1."),
            (r"^conv1\.1\.", "conv_block1.bn1."),
            (r"^conv1\.3\.", "conv_block1.conv2."),
            (r"^conv1\.4\.", "conv_block1.bn2."),
            (r"^conv_last\.0\.", "conv_block_after1.conv1."),
            (r"^conv_last\.1\.", "conv_block_after1.bn1."),
            (r"^conv_last\.3\.", "conv_block_after1.conv2."),
            (r"^conv_last\.4\.", "conv_block_after1.bn2."),
            (r"^(layer[234]\.0)\.conv1\.1\.", r"\1.conv1."),
            (r"^layer", "resnet.layer"),
            (r"^fc\.", "fc_audioset."),
        ],
    ),
}
"""Layout → one network, and how its parameters are called there."""


@pytest.mark.parametrize("layout", BACK)
def test_a_published_layout_fills_our_network(layout: str) -> None:
    """A state under their names, of another seed, loads strictly and makes our network score as its own does."""
    architecture, table = BACK[layout]
    entry = ZOO[architecture]
    torch.manual_seed(0)
    source, target = (build(entry.spec, classes=11) for _ in range(2))
    theirs = {renamed(name, table): value for name, value in source.state_dict().items()}
    assert set(theirs) != set(source.state_dict())
    if layout == "tsm":  # kernels over space alone
        theirs = {name: value.squeeze(2) if value.dim() == 5 else value for name, value in theirs.items()}
    if layout == "panns":
        theirs["spectrogram_extractor.stft.conv_real.weight"] = torch.zeros(513, 1, 1024)
    target.load_state_dict(named_state({"state_dict": theirs}, layout=layout, network=target), strict=True)
    assert all(torch.equal(value, source.state_dict()[name]) for name, value in target.state_dict().items())


def test_names_of_old_densenets() -> None:
    old = "module.features.denseblock1.denselayer12.norm.1.running_mean"
    assert our_name(old, "torchvision") == "features.denseblock1.denselayer12.norm1.running_mean"


def test_every_published_checkpoint_names_what_there_is() -> None:
    assert {one.layout for one in PUBLISHED} <= set(LAYOUTS)
    assert {one.architecture for one in PUBLISHED} <= set(ZOO)
    assert all(one.licence and one.url.startswith("http") for one in PUBLISHED)
    assert set(LAYOUTS) - {one.layout for one in PUBLISHED} == set()
    assert [row["name"] for row in published_for("resnet50")][-1] == "places365 resnet50"
    files = [one.url for one in PUBLISHED if "." in one.url.rsplit("/", 1)[-1]]
    assert len(files) >= 10 and all(url.endswith(_ENDINGS) for url in files)


# ---- features


def test_a_tone_lies_in_its_mel_bin() -> None:
    """40 filters from 0.3 mel (20 Hz) to 35.16 mel (4,000 Hz) stand 0.85 mel apart; the tones are at 6.6, 15, 30.98."""
    times = torch.arange(16_000) / 16_000
    tones = torch.stack([torch.sin(2 * torch.pi * hz * times) for hz in (440.0, 1000.0, 3000.0)])
    spectrum: Callable[[Tensor], Tensor] = Spectrogram(HONK)
    cosines = spectrum.cosines  # type: ignore[attr-defined]
    assert torch.allclose(cosines @ cosines.T, torch.eye(40), atol=1e-5)
    mels = spectrum(tones)[:, 0] @ cosines  # the transform is its own inverse, turned over
    assert mels[:, 50].argmax(dim=1).tolist() == [6, 16, 35]


def test_features_keep_their_digits_under_autocast() -> None:
    sound = torch.randn(2, 8000, generator=torch.Generator().manual_seed(0)) / 10
    for spectrum in (HONK, PANNS):
        plain = Spectrogram(spectrum)(sound)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(Spectrogram(spectrum)(sound), plain)
