"""What docs/study.md and docs/cost.md say is in the committed records."""

from __future__ import annotations

import math
import statistics
from collections import Counter, defaultdict
from functools import cache
from pathlib import Path
from typing import Any

import tasks
from harness.record import Record
from harness.statistics.example_scores import reader
from harness.statistics.paired import Comparison, Samples, compare
from harness.statistics.subsets import only
from harness.store import Store
from tasks.io.of_kind import of_kind
from tasks.io.scienceqa_problems import Question
from tests import cost_page
from tests.golden import SHARED, skip_without_golden
from tests.markdown_tables import parsed

RESULTS = Path(__file__).parents[1] / "results"
DOCS = RESULTS.parent / "docs"
SCORES = {
    "`scienceqa`, accuracy": ("scienceqa · mini", "Acc. %"),
    "its questions with a picture": ("scienceqa · mini", "IMG"),
    "`coco_caption`, CIDEr": ("coco_caption · mini", "CIDEr points"),
    "`retrieval`, mean recall": ("retrieval · mini", "Mean recall %"),
}
"""Columns of the study's first table: of which table of the leaderboard, and which of its columns."""
STEP_TIMES = {
    "`smol`, captions": ("smol", "coco_caption"),
    "`mini`, captions": ("mini", "coco_caption"),
    "`mini`, questions": ("mini", "scienceqa"),
}
"""Columns of its table of costs: of which backbone and task."""
ANSWER_TOKENS = 6
"""Of "The answer is B." with the end of the text, in SmolLM2's vocabulary; but for the letter always the same."""
SHORT, LONG = 150, 450
"""Steps of the plan's captions."""
LETTERS, TEXTS = 900, 600
"""Steps of its questions that are answered with a letter, and with the text of a choice."""


def test_the_scores_are_those_of_the_leaderboard() -> None:
    found, told = _leaderboard(), _told("`scienceqa`, accuracy")
    assert len(told) == len(found["scienceqa · mini"])
    for row in told:
        method = row[""].split("`")[1]
        for title, (table, column) in SCORES.items():
            assert row[title] == found[table][method][column], (method, title)


def test_real_questions_by_letter() -> None:
    found, runs = _leaderboard()[_real_questions("QCM-A", LETTERS)], _runs("smol", "scienceqa", LETTERS)
    for row in _told("loss of an answer at the end"):
        method = row["method"].strip("`")
        assert (row["accuracy"], row["with a picture"]) == (found[method]["Acc. %"], found[method]["IMG"])
        if method != "frozen":
            assert row["against `frozen`, paired"] == f"p = {_against(runs[method], runs['frozen']).p_value:.2f}"
            last = ANSWER_TOKENS * statistics.fmean(_losses(runs[method])[-100:])
            assert row["loss of an answer at the end"] == f"{last:.2f} nats"
    assert f"MemVP against `blind`: p = {_against(runs['memvp'], runs['blind']).p_value:.2f}." in _study()


def test_real_questions_by_text() -> None:
    skip_without_golden()
    runs = _runs("smol", "scienceqa", TEXTS)
    scores = only("img", scores=reader(Store(RESULTS / "reference")), root=SHARED / "data" / "scienceqa")
    rows = _told("against `frozen`, with a picture")
    assert {row["method"].strip("`") for row in rows} == set(runs)
    for row in rows:
        method = row["method"].strip("`")
        for title, metric in (("accuracy", "accuracy"), ("with a picture", "accuracy_img")):
            assert row[title] == f"{runs[method].metrics[metric].value:.2f}", method
        for baseline, without in _LEFT_OUT.items():
            said = row[f"against `{baseline}`, with a picture"]
            against = compare([runs[method]], [runs[baseline]], Samples(scores))
            expected = "" if method in without else f"{against.by:+.2f}, p = {against.p_value:.2g}"
            assert said == expected, (method, baseline)


_LEFT_OUT = {
    "frozen": {"frozen"},
    "blind (of=ademvl)": {"frozen", "blind (of=ademvl)"},
    "blind (of=memvp)": {"frozen", "blind (of=ademvl)", "blind (of=memvp)"},
}
"""Rows without a test in each column, as it is a row's own or stands in another."""


def test_real_questions_by_their_wording() -> None:
    skip_without_golden()
    root = SHARED / "data" / "scienceqa"
    task = tasks.get("scienceqa")
    train, test = (of_kind(task.examples(split, root, limit=None), Question, "") for split in ("train", "test"))
    pictured, right = [q for q in test if q.image is not None], defaultdict[str, Counter[str]](Counter)
    for q in train:
        right[q.question][q.choices[q.answer]] += 1
    # Of equally frequent choices, as where the words are new, each is taken as often.
    by_wording = statistics.fmean(_most_frequent(q, right.get(q.question, Counter())) for q in pictured)
    known = [q for q in pictured if q.question in right]
    assert f"wording of {len(known):,} of the {len(pictured):,} questions is in the training split" in _study()
    assert f"no model at all, gives {100 * by_wording:.2f} %" in _study()
    chance = statistics.fmean(1 / len(q.choices) for q in pictured)
    assert f"Picking any choice gives {100 * chance:.2f} % of the questions with a picture" in _study()
    new = {q.id for q in pictured} - {q.id for q in known}
    scores, runs = reader(Store(RESULTS / "reference")), _runs("smol", "scienceqa", TEXTS)
    mwa, memvp_twin, memvp, ademvl, twin, frozen = (
        statistics.fmean(score.value for id, score in scores(runs[name]).items() if id in new)
        for name in ("mwa", "blind (of=memvp)", "memvp", "ademvl", "blind (of=ademvl)", "frozen")
    )
    by_memory = f"MemVP's twin {memvp_twin:.2f}, MemVP {memvp:.2f}, ADEM-VL {ademvl:.2f}, its twin {twin:.2f}"
    assert f"On the {len(new)} others MWA has {mwa:.2f} %, {by_memory} and `frozen` {frozen:.2f}" in _study()


def _most_frequent(question: Question, seen: Counter[str]) -> float:
    """The chance of being right with one of the choices that were right most often."""
    most = max(seen[choice] for choice in question.choices)
    taken = [choice for choice in question.choices if seen[choice] == most]
    return taken.count(question.choices[question.answer]) / len(taken)


def test_real_captions() -> None:
    rows = _told("training")
    assert {row["method"].strip("`") for row in rows if row["training"] == f"{SHORT} steps"} == set(
        _runs("smol", "coco_caption", SHORT)
    )
    for row in rows:
        runs = _runs("smol", "coco_caption", int(row["training"].removesuffix(" steps")))
        method = row["method"].strip("`")
        assert row["CIDEr"] == f"{runs[method].metrics['cider'].value:.2f}"
        assert row["different captions"] == str(len({line["output"] for line in _lines(runs[method], "predictions")}))
        if method != "blind":
            against = _against(runs[method], runs["blind"])
            assert row["against `blind`, paired"] == f"{against.by:+.2f}, p = {against.p_value:.2g}", row
    long = _runs("smol", "coco_caption", LONG)
    assert f"cannot be told apart (p = {_against(long['memvp'], long['ademvl']).p_value:.2g})" in _study()


def test_real_retrieval() -> None:
    runs, rows = _runs("smol", "retrieval"), _told("mean recall")
    assert {row["method"].strip("`") for row in rows} == set(runs)
    for row in rows:
        method = row["method"].strip("`")
        assert row["mean recall"] == f"{runs[method].metrics['mean_recall'].value:.2f}"
        if method != "blind":
            against = _against(runs[method], runs["blind"])
            assert row["against `blind`, by picture"] == f"{against.by:+.2f}, p = {against.p_value:.2g}", row
        assert row["loss at the end"] == f"{statistics.fmean(_losses(runs[method])[-10:]):.2f} nats"
    pictures, captions, each = 125, 625, 5
    found = [100 * k / pictures for k in (1, 5, 10)]
    found += [100 * (1 - math.comb(captions - each, k) / math.comb(captions, k)) for k in (1, 5, 10)]
    assert f"a random order gives {statistics.fmean(found):.2f} % mean recall" in _study()
    assert f"an even guess among 32 costs {math.log(32):.2f} nats" in _study()


def test_step_times() -> None:
    for row, method in zip(_told("papers (7B)"), ("memvp", "lora"), strict=True):
        for title, where in STEP_TIMES.items():
            step, of = (_step_ms(*where, method=name) for name in (method, "ademvl"))
            assert row[title] == f"{step / of:.2f}", (method, title)


def test_the_cost_page_tells_what_was_counted() -> None:
    page = (DOCS / "cost.md").read_text(encoding="utf-8")
    assert page.partition("<!-- costs: llama-7b -->\n")[2].partition("\n<!-- end -->")[0] == cost_page.growth_table()
    assert f"\n{cost_page.models()}\n\n" in page
    assert f"\n{cost_page.papers()}\n\n" in page
    assert f"\n{cost_page.reproduction()}\n\n" in page


def _study() -> str:
    return " ".join((DOCS / "study.md").read_text(encoding="utf-8").split())


def _told(column: str) -> list[dict[str, str]]:
    """The rows of the study's table that has this column."""
    tables = parsed((DOCS / "study.md").read_text(encoding="utf-8"))
    [found] = [rows for rows in tables if column in rows[0]]
    return found


def _real_questions(format: str, steps: int) -> str:
    """The title of a table."""
    return f"scienceqa · smol · task.eval_format={format} · task.train_format={format} · train.steps={steps}"


def _leaderboard() -> dict[str, dict[str, dict[str, str]]]:
    """The rows of the committed leaderboard by table and method, without marks and intervals."""
    sections = (RESULTS / "LEADERBOARD.md").read_text(encoding="utf-8").split("## ")[1:]
    return {
        section.partition("\n")[0]: {
            row["Method"]: {title: cell.partition(" ")[0].strip("*") for title, cell in row.items()}
            for row in parsed(section)[0]
        }
        for section in sections
    }


@cache
def _records() -> list[Record]:
    return Store(RESULTS / "reference").read()


def _runs(backbone: str, task: str, steps: int | None = None) -> dict[str, Record]:
    """The runs of one seed by method; of those with so many steps, if any number is given."""
    chosen = [r for r in _records() if (r.cell.backbone, r.cell.task, r.cell.seed) == (backbone, task, 0)]
    chosen = [r for r in chosen if steps in (None, r.cell.options["train"]["steps"])]
    twins = {r.cell.options["method"]["of"] for r in chosen if r.cell.method == "blind"}
    return {_name(r, several=len(twins) > 1): r for r in chosen}


def _name(run: Record, *, several: bool) -> str:
    """The method; with whose twin it is where there are several."""
    if run.cell.method != "blind" or not several:
        return run.cell.method
    return f"blind (of={run.cell.options['method']['of']})"


def _against(one: Record, other: Record) -> Comparison:
    return compare([one], [other], Samples(reader(Store(RESULTS / "reference"))))


def _losses(run: Record) -> list[float]:
    [losses] = [line["values"] for line in _lines(run, "samples") if line["name"] == "train_loss"]
    return [float(loss) for loss in losses]


def _lines(run: Record, kind: str) -> list[dict[str, Any]]:
    """Of the file of this kind beside a record."""
    store = Store(RESULTS / "reference")
    [named] = [file for file in (run.predictions, run.samples) if file is not None and f".{kind}." in file.file]
    return store.rows(run, named)


def _step_ms(backbone: str, task: str, *, method: str) -> float:
    """The median over seeds, of the short training where there are several."""
    wanted = (backbone, task, method)
    runs = [r for r in _records() if (r.cell.backbone, r.cell.task, r.cell.method) == wanted]
    steps = min(r.cell.options["train"]["steps"] for r in runs)
    read = [r.meters["train_step_ms"] for r in runs if r.cell.options["train"]["steps"] == steps]
    return statistics.median(meter.median for meter in read)  # type: ignore[union-attr]
