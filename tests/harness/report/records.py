"""Records and result folders for the tests of the report."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.record import METERS, Cell, MetricValue, Record, distribution, scalar, unavailable
from harness.store import Store
from tasks.mini import scienceqa

GOAL_UNIT = {"scienceqa": "%", "coco_caption": "points", "retrieval": "%"}
PRIMARY = {"scienceqa": "accuracy", "coco_caption": "cider", "retrieval": "mean_recall"}
OPTIONS: dict[str, Any] = {
    "task": {},
    "train": {"lr": 0.006, "batch_size": 32},
    "run": {"train_limit": None, "eval_limit": None, "precision": "fp32", "device": "cuda:0", "weights": "pretrained"},
    "data": {"sha256": "ab" * 32},
}


def make(
    number: int,
    *,
    method: str = "memvp",
    task: str = "scienceqa",
    backbone: str = "mini",
    seed: int = 0,
    score: float | None = 50.0,
    params: int = 1_000_000,
    status: str = "ok",
    reason: str | None = None,
    settings: dict[str, Any] | None = None,
    run: dict[str, Any] | None = None,
    more: dict[str, float] | None = None,
    provenance: dict[str, Any] | None = None,
) -> Record:
    """A record; runs with larger numbers are later."""
    done = status == "ok"
    unit = GOAL_UNIT.get(task, "%")
    name = PRIMARY.get(task, "accuracy")
    missing = None if score is not None else "not scored"
    metrics = {name: MetricValue(value=score, unit=unit, goal="max", n=40, ci95=None, reason=missing)}
    metrics |= {key: MetricValue(value=value, unit=unit, goal="max", n=20) for key, value in (more or {}).items()}
    read: dict[str, Any] = {meter: unavailable("not read") for meter in METERS}
    read |= {
        "trainable_params": scalar(params, "params"),
        "total_params": scalar(1_000_000_000, "params"),
        "train_step_ms": distribution([params / 1e5], "ms"),
        "train_peak_bytes": scalar(params * 1000, "bytes"),
        "infer_ms_per_sample": distribution([params / 2e5], "ms"),
    }
    options = {**OPTIONS, "method": settings or {"slots": 80}, "run": OPTIONS["run"] | (run or {})}
    return Record(
        run_id=f"2026-{number:08d}",
        status=status,  # type: ignore[arg-type]
        reason=reason,
        cell=Cell(method=method, task=task, backbone=backbone, seed=seed, options=options),
        metrics=metrics if done else {},
        meters=read if done else {},
        provenance=provenance or {"argv": ["run", "--methods", method], "git": {"commit": "c" * 40, "dirty": False}},
    )


def captions(ids: Sequence[str], rng: random.Random, quality: float) -> list[dict[str, Any]]:
    """Predictions of a captioning run with the CIDEr of each."""
    points = [rng.gauss(quality, 20) for _ in ids]
    return [
        {"id": id, "output": f"a picture of {id}", "choice": None, "cider": cider, "score": cider, "group": id}
        for id, cider in zip(ids, points, strict=True)
    ]


def ranks(images: int, rng: random.Random, worst: int) -> list[dict[str, Any]]:
    """Predictions of a retrieval run with two captions an image, scored as `tasks.retrieval` does."""
    lines = []
    for image in range(images):
        for id, weight in ((f"{image}", 1.5), (f"{image}#0", 0.75), (f"{image}#1", 0.75)):
            rank = rng.randint(1, worst)
            hits = sum(rank <= cutoff for cutoff in (1, 5, 10)) / 3
            scored = {"score": 100 * hits * weight, "group": str(image)}
            lines.append({"id": id, "output": "", "choice": None, "rank": rank, **scored})
    return lines


def fill_questions(root: Path, data: Path, *, methods: Sequence[str], seed: int = 0) -> None:
    """Adds ScienceQA runs on a small mini world written to `data`; earlier methods are right more often."""
    scienceqa.write(data, seed=0, train=8, val=8, test=60)
    problems = json.loads((data / "problems.json").read_text(encoding="utf-8"))
    ids = json.loads((data / "pid_splits.json").read_text(encoding="utf-8"))["test"]
    for place, method in enumerate(methods):
        rng, lines, right = random.Random(place), [], 0
        for id in ids:
            answer, count = problems[id]["answer"], len(problems[id]["choices"])
            choice = answer if rng.random() < 0.95 - 0.25 * place else (answer + 1) % count
            right += choice == answer
            scored = {"score": 100.0 * (choice == answer), "group": id}
            lines.append({"id": id, "output": "ABCDE"[choice], "choice": choice, **scored})
        score = 100 * right / len(ids)
        categories = {"accuracy_nat": score - 3, "accuracy_soc": score + 2}
        record = make(900 + place, method=method, seed=seed, score=score, params=10 ** (place + 4), more=categories)
        Store(root).append(record, lines, samples=readings(rng))


def mean(lines: Sequence[dict[str, Any]], key: str) -> float:
    """The mean of one field."""
    return sum(line[key] for line in lines) / len(lines)


def readings(rng: random.Random, steps: int = 400) -> dict[str, list[float]]:
    """A loss that falls from about 3, with noise."""
    return {"train_loss": [3 * math.exp(-4 * step / steps) * rng.uniform(0.8, 1.2) + 0.1 for step in range(steps)]}


def fill(
    root: Path, *, methods: Sequence[str], seeds: Sequence[int] = (0, 1, 2), n: int = 60, steps: int = 0
) -> list[Record]:
    """A results folder of captioning and retrieval runs with predictions, and its records.

    `steps`: how many each run was trained for, as far as its learning curve tells; 0 for no curves.
    """
    store, rng, number = Store(root), random.Random(0), 0
    for place, method in enumerate(methods):
        for seed in seeds:
            spoken = captions([str(id) for id in range(n)], rng, 40 + 30 * place)
            found = ranks(n, rng, 12 + 20 * place)
            for task, lines, score in (
                ("coco_caption", spoken, mean(spoken, "score")),
                ("retrieval", found, mean(found, "score")),
            ):
                number += 1
                extra = {"bleu_4": score / 3} if task == "coco_caption" else {"tr_r1": score / 2, "ir_r1": score / 4}
                record = make(
                    number, method=method, task=task, seed=seed, score=score, params=10 ** (place + 4), more=extra
                )
                store.append(record, lines, samples=readings(rng, steps=steps) if steps else None)
    return store.read()
