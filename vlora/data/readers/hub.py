"""Repositories of the hub; read from its cache if the hub cannot be reached, which is tested once."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_COMMIT = re.compile(r"[0-9a-f]{40}")

LONGEST_WAIT = 10.0
"""Seconds to wait for the hub's first answer."""


def find_repository(path: str, config: str | None, revision: str | None = None) -> Any:
    """Find a repository of the hub; without a connection, its downloaded files.

    `datasets` would use the tables that it once made of the files, whose values have the types that it guessed.
    """
    import datasets
    from datasets.packaged_modules.cache.cache import Cache

    problem, version = _reach_hub(), {} if revision is None else {"revision": revision}
    try:
        with _offline() if problem else contextlib.nullcontext():
            builder = datasets.load_dataset_builder(path, config, **version)
    except ConnectionError as error:
        snapshot = _find_snapshot(path, revision)
        if snapshot is None:
            if not problem and not version:
                raise
            what = "there is no such file or folder" if not version else f"its version {revision!r} is not in the cache"
            msg = f"{what}, and the hub is not to be reached ({problem or error})"
            raise ConnectionError(msg) from error
        return datasets.load_dataset_builder(str(snapshot), config)
    if not isinstance(builder, Cache) or builder.info.builder_name not in ("json", "csv", "imagefolder"):
        return builder
    snapshot = _find_snapshot(path, revision)
    if snapshot is None:
        msg = "of its files only what `datasets` has made of them is at hand; connect to the hub once more"
        raise ValueError(msg)
    return datasets.load_dataset_builder(str(snapshot), config)


def find_commit(path: str, revision: str | None) -> str | None:
    """Find the commit of a branch or tag of a repository; None if neither the hub nor its cache knows it."""
    import huggingface_hub

    if revision is not None and _COMMIT.fullmatch(revision):
        return revision
    if not huggingface_hub.is_offline_mode() and not _reach_hub():
        # Errors are reported when its rows are opened.
        with contextlib.suppress(Exception):
            return huggingface_hub.HfApi().dataset_info(path, revision=revision).sha
    snapshot = _find_snapshot(path, revision)
    return None if snapshot is None or not _COMMIT.fullmatch(snapshot.name) else snapshot.name


def _reach_hub() -> str:
    """Return why the hub cannot be reached; empty if it can. Its client would retry for half a minute."""
    import huggingface_hub

    if huggingface_hub.is_offline_mode():
        return ""
    try:
        huggingface_hub.get_session().head(huggingface_hub.constants.ENDPOINT, timeout=LONGEST_WAIT)
    except Exception as error:  # noqa: BLE001 - of whichever library the client asks with
        return str(error) or type(error).__name__
    return ""


@contextlib.contextmanager
def _offline() -> Iterator[None]:
    """Let `datasets` use downloaded files only, as with HF_HUB_OFFLINE=1."""
    import datasets
    from huggingface_hub import constants

    places: tuple[Any, ...] = (constants, datasets.config)
    before = [place.HF_HUB_OFFLINE for place in places]
    for place in places:
        place.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            place.HF_HUB_OFFLINE = value


def _find_snapshot(path: str, revision: str | None = None) -> Path | None:
    """Find the files of a version of a repository in the cache of the hub; the newest ones without a version."""
    from huggingface_hub.constants import HF_HUB_CACHE

    repository = Path(HF_HUB_CACHE) / f"datasets--{path.replace('/', '--')}"
    folder = repository / "snapshots"
    if revision is not None:
        ref = repository / "refs" / revision
        snapshot = folder / (ref.read_text(encoding="utf-8").strip() if ref.is_file() else revision)
        return snapshot if snapshot.is_dir() else None
    snapshots = list(folder.iterdir()) if folder.is_dir() else []
    return max(snapshots, key=lambda snapshot: snapshot.stat().st_mtime, default=None)
