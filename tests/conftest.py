"""What holds for all tests: a tiny backbone, shapes in annotations checked, other hosts only when asked for."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from jaxtyping import install_import_hook

if TYPE_CHECKING:
    from harness.backbones.decoder import DecoderModel

# Before any test module imports them.
install_import_hook(["methods.ademvl", "methods.memvp", "methods.kernels.memory_read.reference"], "beartype.beartype")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.environ.get("VLTUNE_NETWORK") == "1":
        return
    skip = pytest.mark.skip(reason="needs a package index: set VLTUNE_NETWORK=1")
    for item in items:
        if item.get_closest_marker("network") is not None:
            item.add_marker(skip)


@pytest.fixture(scope="session")
def tiny_folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folders of a tiny CLIP + Llama pair with random weights."""
    from tests.tiny_backbone import write_tiny_backbone

    return write_tiny_backbone(tmp_path_factory.mktemp("tiny backbone"))


@pytest.fixture
def tiny_model(tiny_folders: tuple[Path, Path]) -> DecoderModel:
    """That pair, freshly loaded."""
    from harness import backbones

    llm, vision = map(str, tiny_folders)
    return backbones.load(backbones.BackboneSpec("tiny", llm, vision))
