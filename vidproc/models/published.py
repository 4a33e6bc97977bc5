"""torchvision's weight entries as ours: transforms become a view, the file is hashed. torchvision is imported late."""

import hashlib
import os
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from vidproc.errors import WeightsError
from vidproc.models.fetch import check
from vidproc.models.zoo import ZOO
from vidproc.views import Clips, Frames, Picture

HOST = "https://download.pytorch.org/"


def entry_fields(name: str) -> dict[str, Any]:
    """The fields of `Weights` for an entry, fetched into torch.hub's cache if need be. Raises `WeightsError`."""
    from torchvision.models import get_weight

    architecture = name.split("_Weights.", maxsplit=1)[0].lower()
    if architecture not in ZOO:
        raise WeightsError(f"weights {name}: architecture {architecture!r} is unknown; use one of {sorted(ZOO)}")
    try:
        entry = get_weight(name)
    except (ValueError, KeyError) as error:
        raise WeightsError(f"weights {name}: {error}; see torchvision's list of weights for {architecture}") from error
    transforms, meta = entry.transforms(), entry.meta
    data = hub_file(entry.url).read_bytes()
    measured = ", ".join(f"{data}: {scores}" for data, scores in meta.get("_metrics", {}).items())
    return {
        "url": entry.url,
        "sha256": hashlib.sha256(data).hexdigest(),
        "architecture": architecture,
        "categories": tuple(meta["categories"]),
        "view": _view(transforms, clips=ZOO[architecture].spec.dims == 3),
        "mean": tuple(transforms.mean),
        "std": tuple(transforms.std),
        "licence": "BSD-3-Clause",
        "provenance": f"torchvision {name}; recipe {meta.get('recipe')}",
        "protocol": f"the authors' figures: {measured}",
    }


def _view(transforms: Any, *, clips: bool) -> Frames | Clips:
    """Resize, centre crop and interpolation as torchvision's; clips of 16 frames at 15 a second, as documented."""
    resize = transforms.resize_size
    crop = (transforms.crop_size[0], transforms.crop_size[-1])
    picture = Picture(
        resize=resize[0] if len(resize) == 1 else (resize[0], resize[1]),
        crop=crop,
        interpolation=transforms.interpolation.value,
    )
    return Clips(num_frames=16, fps=15, stride_s=2.0, picture=picture) if clips else Frames(fps=1, picture=picture)


def hub_file(url: str) -> Path:
    """The file in torch.hub's cache, downloaded when absent; the hash prefix in its name is checked either way."""
    import torch

    file_name = Path(urlparse(url).path).name
    prefix = file_name.rsplit(".", 1)[0].rsplit("-", 1)[-1]
    path = Path(torch.hub.get_dir()) / "checkpoints" / file_name
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, os.fspath(path), hash_prefix=prefix, progress=False)
        except (OSError, RuntimeError) as error:  # no network, refused, or another hash than promised
            raise WeightsError(
                f"weights {url} could not be downloaded ({error}): put the file at {path} by hand, or name a "
                "checkpoint that you have, such as demo or a URL with a sidecar"
            ) from error
    check(str(path), path.read_bytes(), sha256=prefix)
    return path
