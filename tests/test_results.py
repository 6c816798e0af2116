"""The committed leaderboard is what the committed records give."""

import json
from pathlib import Path

from harness.record import Record
from harness.statistics.example_scores import reader
from harness.store import Store
from harness.tables.leaderboard import View, markdown, render
from tests import cost_page
from tests.markdown_tables import parsed

RESULTS = Path(__file__).parents[1] / "results"


def test_the_leaderboard_is_generated_from_the_records() -> None:
    store = Store(RESULTS / "reference")
    records = store.read()
    assert records
    assert (RESULTS / "LEADERBOARD.md").read_text(encoding="utf-8") == markdown(records, scores=reader(store))


def _medians() -> dict[str, float]:
    """Milliseconds of every row of the committed benchmark, by case and name."""
    cases = json.loads((RESULTS / "bench" / "cpu-epyc-2-cores.json").read_text(encoding="utf-8"))["cases"]
    return {
        f"{case['title']}: {row['name']}": row["ms"]["median"]
        for found in cases.values()
        for case in found
        for row in case["rows"]
    }


def test_the_speeds_in_the_readme_are_the_measured_ones() -> None:
    readme = (RESULTS.parent / "README.md").read_text(encoding="utf-8")
    found = _medians()
    step, choices = "training step of ADEM-VL, forward + backward", "evaluation by choice likelihood"
    naive, half = found[f"{step}: naive, fp32"], found[f"{step}: fast, bf16"]
    told = [
        (naive, found[f"{step}: fast, fp32"]),
        (naive, half),
        (found[f"{choices}: one by one, full logits"], found[f"{choices}: batch of 16"]),
        (found["greedy decoding: 8 tokens, without a cache"], found["greedy decoding: 8 tokens, greedy"]),
    ]
    table = [line for line in readme.splitlines() if line.startswith("| ") and line.endswith(" x |")]
    assert len(table) == len(told)
    for line, (slow, fast) in zip(table, told, strict=True):
        _, what, before, after, ratio, _ = (cell.strip() for cell in line.split("|"))
        assert before.startswith(f"{_seconds(slow)} s"), what
        assert (after, ratio) == (f"{_seconds(fast)} s", f"{slow / fast:.1f} x"), what


def _seconds(milliseconds: float) -> str:
    return f"{milliseconds / 1e3:.2f}" if milliseconds < 1e3 else f"{milliseconds / 1e3:.1f}"


def front_table() -> str:
    """What README.md shows of the leaderboard: accuracy and costs on the questions of the mini world."""
    store = Store(RESULTS / "reference")
    columns = (
        "accuracy",
        "accuracy_img",
        "trainable_params",
        "train_step_ms",
        "infer_ms_per_sample",
        "train_peak_bytes",
    )
    records = [record for record in store.read() if (record.cell.task, record.cell.backbone) == ("scienceqa", "mini")]
    text = render(records, format="md", view=View("scienceqa", columns, None), scores=reader(store), published=())
    return "\n".join(line for line in text.splitlines() if line.startswith("|"))


def test_the_leaderboard_in_the_readme_is_generated_from_the_records() -> None:
    readme = (RESULTS.parent / "README.md").read_text(encoding="utf-8")
    _, _, behind = readme.partition("<!-- table: scienceqa · mini -->\n")
    assert behind.partition("\n<!-- end -->")[0] == front_table()


def test_the_scores_in_the_study_are_those_of_the_leaderboard() -> None:
    study = (RESULTS.parent / "docs" / "study.md").read_text(encoding="utf-8").partition("## Cost")[0]
    found, [told] = _leaderboard(), parsed(study)
    assert len(told) == len(found["scienceqa · mini"])
    for row in told:
        method = row[""].split("`")[1]
        for title, (table, column) in STUDIED.items():
            assert row[title] == found[table][method][column], (method, title)
    text = " ".join(study.split())
    best = max(float(row["CIDEr points"]) for row in found["coco_caption (flickr8k) · smol"].values())
    frozen, ademvl, blind = (found["scienceqa · smol"][method]["IMG"] for method in ("frozen", "ademvl", "blind"))
    assert f"CIDEr is {best:.2f} at best" in text
    assert f"from {frozen} (`frozen`) to {ademvl}" in text
    assert f"`blind` has {blind}." in text


def test_the_cost_page_tells_what_was_counted() -> None:
    page = (RESULTS.parent / "docs" / "cost.md").read_text(encoding="utf-8")
    assert page.partition("<!-- costs: llama-7b -->\n")[2].partition("\n<!-- end -->")[0] == cost_page.growth_table()
    assert f"\n{cost_page.papers()}\n\n" in page
    assert f"\n{cost_page.reproduction()}\n\n" in page


STUDIED = {
    "`scienceqa`, accuracy": ("scienceqa · mini", "Acc. %"),
    "its questions with a picture": ("scienceqa · mini", "IMG"),
    "`coco_caption`, CIDEr": ("coco_caption · mini", "CIDEr points"),
    "`retrieval`, mean recall": ("retrieval · mini", "Mean recall %"),
}
"""Columns of the study's table: of which table of the leaderboard, and which of its columns."""


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


def test_what_tuning_came_to_is_told_as_the_records_have_it() -> None:
    recipe = {r.cell.method: r for r in Store(RESULTS / "reference").read() if _first_questions(r)}
    tuned = {r.cell.method: r for r in Store(RESULTS / "tuned").read()}
    assert all(_first_questions(record) for record in tuned.values())
    chosen = {name: r.provenance["tuning"] for name, r in tuned.items() if "tuning" in r.provenance}
    others = {name: report["run_off"] for name, report in chosen.items() if report["best"] != 0}
    kept = [name for name in chosen if name not in others]
    assert all(tuned[name].predictions.sha256 == recipe[name].predictions.sha256 for name in kept)
    guide = " ".join((RESULTS.parent / "docs" / "tuning.md").read_text(encoding="utf-8").split())
    rows = [(others[name], tuned[name].metrics, recipe[name].metrics) for name in ("ademvl", "llava")]
    found = [(off["found"]["score"], off["own"]["score"]) for off, _, _ in rows]
    ended = [(mine["accuracy"].value, theirs["accuracy"].value) for _, mine, theirs in rows]
    assert len(kept) == 5
    assert sorted(others) == ["ademvl", "llava"]
    for pairs in (found, ended):
        first, second = (f"{a:.2f} against {b:.2f}" for a, b in pairs)
        assert f"({first}, and {second})" in guide


def _first_questions(record: Record) -> bool:
    cell = record.cell
    return (cell.task, cell.backbone, cell.seed) == ("scienceqa", "mini", 0)
