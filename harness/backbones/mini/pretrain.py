"""Makes the mini backbone's weights: one seeded command trains tokenizer, language model and vision tower."""

from __future__ import annotations

import json
import platform
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Protocol

import numpy
import PIL
import tokenizers
import torch
import transformers

from harness.backbones.mini.pretrain_text import TextRecipe, build_tokenizer, text_accuracy, train_text
from harness.backbones.mini.pretrain_vision import MEAN, STD, VisionRecipe, probe_accuracy, train_vision
from tasks.mini.render import SIZE
from tasks.mini.world import VERSION

PARTS = ("text", "vision")
TEXT_QUESTIONS = 3200
PROBE_TRAIN, PROBE_TEST = 4000, 2000


class _Savable(Protocol):
    def save_pretrained(self, save_directory: str | Path, /) -> object: ...


def pretrain(
    out: Path,
    *,
    seed: int = 0,
    parts: Iterable[str] = PARTS,
    text_recipe: TextRecipe = TextRecipe(),
    vision_recipe: VisionRecipe = VisionRecipe(),
) -> dict[str, object]:
    """Train the given parts into `out` and return what PRETRAINING.json then says.

    "text" writes `out/llm`, "vision" writes `out/vision`; the parts are independent of each other, so that two
    processes may make one each. Each adds its section to `out/PRETRAINING.json`.

    Raises:
        ValueError: an unknown part.
    """
    makers: dict[str, Callable[[], dict[str, object]]] = {
        "text": lambda: _make_text(out, seed, text_recipe),
        "vision": lambda: _make_vision(out, seed, vision_recipe),
    }
    wanted = tuple(parts)
    if unknown := [part for part in wanted if part not in makers]:
        raise ValueError(f"unknown parts {unknown}; known: {', '.join(PARTS)}")
    out.mkdir(parents=True, exist_ok=True)
    notes = out / "PRETRAINING.json"
    report: dict[str, object] = {}
    for part in wanted:
        section = makers[part]()
        report = json.loads(notes.read_text(encoding="utf-8")) if notes.exists() else {}
        report |= {"world": VERSION, part: section}
        _write_text(notes, json.dumps(report, indent=1, sort_keys=True) + "\n")
    return report


def _make_text(out: Path, seed: int, recipe: TextRecipe) -> dict[str, object]:
    started = time.perf_counter()
    tokenizer = build_tokenizer(seed, recipe.vocab)
    model = train_text(tokenizer, seed=seed, recipe=recipe, checkpoint=lambda m, _: _save(out / "llm", m, tokenizer))
    _save(out / "llm", model, tokenizer)
    accuracy = text_accuracy(out / "llm", TEXT_QUESTIONS)
    return _section(seed, asdict(recipe), started) | {"accuracy": accuracy, "accuracy_n": TEXT_QUESTIONS}


def _make_vision(out: Path, seed: int, recipe: VisionRecipe) -> dict[str, object]:
    started = time.perf_counter()
    processor = transformers.CLIPImageProcessorPil(
        do_center_crop=False,
        size={"height": SIZE, "width": SIZE},
        image_mean=[MEAN] * 3,
        image_std=[STD] * 3,
    )
    model = train_vision(seed=seed, recipe=recipe, checkpoint=lambda m, _: _save(out / "vision", m, processor))
    _save(out / "vision", model, processor)
    probes = probe_accuracy(model, n_train=PROBE_TRAIN, n_test=PROBE_TEST)
    return _section(seed, asdict(recipe), started) | {"probe_accuracy": probes, "probe_n": PROBE_TEST}


def _section(seed: int, recipe: dict[str, object], started: float) -> dict[str, object]:
    return {
        "seed": seed,
        "recipe": recipe,
        "wall_seconds": round(time.perf_counter() - started, 1),
        "threads": torch.get_num_threads(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "tokenizers": tokenizers.__version__,
            "numpy": numpy.__version__,
            "pillow": PIL.__version__,
        },
    }


def _save(folder: Path, *parts: _Savable) -> None:
    """Save into `folder`, replacing it only when everything is written."""
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    for part in parts:
        part.save_pretrained(partial)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def _write_text(path: Path, content: str) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(content, encoding="utf-8")
    partial.replace(path)
