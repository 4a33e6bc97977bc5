"""Which annotators a run has, by its options: their weights found and checked before anything else is done."""

from collections.abc import Mapping
from functools import partial

from vidproc.annotators import ANNOTATORS
from vidproc.annotators.base import Annotator
from vidproc.annotators.classify import Classifier
from vidproc.annotators.faces import Faces, Terms
from vidproc.errors import UsageError
from vidproc.models.restorer import Restorer, resolve_restorer
from vidproc.models.sidecar import check_licence
from vidproc.models.taxonomy import read_taxonomy
from vidproc.pipeline.options import LabelConfig
from vidproc.tables.gallery import check_apart, read_gallery

RESTORE = "restore"
"""How `--weights` calls the restorer, beside the annotators' names."""


def chosen_annotators(config: LabelConfig) -> dict[str, Annotator]:
    """The annotators that the options name, their weights resolved and checked. Raises `UsageError`, `WeightsError`."""
    weighed = set(config.weights) - {RESTORE}
    unknown = sorted({*config.annotators, *weighed} - set(ANNOTATORS))
    if unknown:
        raise UsageError(f"no annotator is called {', '.join(unknown)}: choose from {', '.join(ANNOTATORS)}")
    idle = sorted(weighed - set(config.annotators))
    if idle:
        raise UsageError(f"--weights names {', '.join(idle)}, which --annotators does not")
    restorer = _chosen_restorer(config)
    factories = ANNOTATORS | {Faces.name: partial(Faces.from_spec, terms=_face_terms(config))}
    chosen = {
        name: factories[name](config.weights.get(name), allow_licences=config.allow_licences, restorer=restorer)
        for name in config.annotators
    }
    return chosen | _with_taxonomies(config, chosen)


def _with_taxonomies(config: LabelConfig, chosen: Mapping[str, Annotator]) -> dict[str, Annotator]:
    """The annotators that are given a taxonomy, with it. Raises `UsageError`, `WeightsError`."""
    found: dict[str, Annotator] = {}
    for name, url in config.taxonomies.items():
        classifier = chosen.get(name)
        if not isinstance(classifier, Classifier):
            able = [name for name, one in chosen.items() if isinstance(one, Classifier)]
            raise UsageError(f"--taxonomies names {name}; of --annotators only {able} may be given one")
        taxonomy = read_taxonomy(url)
        check_licence(url, taxonomy.licence, allowed=config.allow_licences)
        found[name] = classifier.with_taxonomy(taxonomy)
    return found


def _face_terms(config: LabelConfig) -> Terms | None:
    """On what terms faces are compared; None where the options do not say. Raises `UsageError`."""
    if Faces.name not in config.annotators:
        if config.gallery or config.purpose or config.keep_face_vectors:
            raise UsageError("--gallery, --purpose and --keep-face-vectors are for faces, which --annotators lacks")
        return None
    if config.gallery is None or config.purpose is None:
        return None
    check_apart(config.gallery, config.tables)
    gallery = read_gallery(config.gallery)
    return Terms(gallery=gallery, purpose=config.purpose, keep_vectors=config.keep_face_vectors)


def _chosen_restorer(config: LabelConfig) -> Restorer | None:
    if config.restore:
        return resolve_restorer(config.weights.get(RESTORE, "demo"), allow_licences=config.allow_licences)
    if RESTORE in config.weights:
        raise UsageError(f"--weights names {RESTORE}, but frames are not restored: add --restore, or leave it out")
    return None
