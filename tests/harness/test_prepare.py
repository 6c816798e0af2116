"""What is refused before any hour of compute: prompts that do not fit what is left of the context."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness import cli
from tasks.mini import scienceqa as mini_scienceqa
from tests.tiny_backbone import write_tiny_backbone


def narrow_backbone(folder: Path, context: int) -> tuple[Path, Path]:
    """The tiny pair with a shorter context; its 16 patches become as many tokens of it."""
    llm, vision = write_tiny_backbone(folder)
    config = json.loads((llm / "config.json").read_text(encoding="utf-8"))
    (llm / "config.json").write_text(json.dumps(config | {"max_position_embeddings": context}), encoding="utf-8")
    return llm, vision


@pytest.mark.parametrize(("context", "room"), [(12, 0), (16, 0), (23, 7), (40, 24)])
def test_prompts_are_not_cut_to_next_to_nothing(
    context: int, room: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    llm, vision = narrow_backbone(tmp_path, context)
    mini_scienceqa.write(tmp_path / "data", train=4, val=2, test=12)
    where = ["--llm", str(llm), "--vision", str(vision), "--data-root", str(tmp_path / "data")]
    options = ["--methods", "llava", "--task", "scienceqa", "--steps", "1", "--batch-size", "4", "--device", "cpu"]
    cut = ["--set", "scienceqa.overlong=cut", "--results", str(tmp_path / "results")]
    capsys.readouterr()  # what writing the backbone said
    code = cli.main(["run", *options, *where, *cut])
    err = capsys.readouterr().err
    if room == 24:
        assert code == 0
        return
    assert code == 2
    assert f"beside what llava inserts its context of {context} tokens has room for {room} of text" in err
    assert err.count("\n") == 1
