"""The committed leaderboard is what the committed records give."""

import json
import re
from pathlib import Path

import pytest

from harness.record import Record
from harness.report import render as page
from harness.statistics.example_scores import reader
from harness.store import Store
from harness.tables.leaderboard import View, markdown, render

RESULTS = Path(__file__).parents[1] / "results"


def test_the_leaderboard_is_generated_from_the_records() -> None:
    store = Store(RESULTS / "reference")
    records = store.read()
    assert records
    assert (RESULTS / "LEADERBOARD.md").read_text(encoding="utf-8") == markdown(records, scores=reader(store))


def test_the_report_is_generated_from_the_records() -> None:
    made = page(Store(RESULTS / "reference").read(), RESULTS / "reference")
    same = _ours((RESULTS / "report.html").read_text(encoding="utf-8")) == _ours(made)
    assert same, "vltune leaderboard --results results/reference --format html --out results/report.html"


def _ours(text: str) -> str:
    """The report without plotly's script, its first, which another version has otherwise, without the hashes, and with
    as many digits as no other scipy changes."""
    text, policies = re.subn("script-src [^;]*;", "", text, count=1)
    text, scripts = re.subn("<script>.*?</script>", "", text, count=1, flags=re.DOTALL)
    assert (policies, scripts, len(re.findall("<script>", text))) == (1, 1, 1)
    return re.sub(r"\d+\.\d{7,}", lambda found: f"{float(found[0]):.6g}", text)


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


REAL = "scienceqa · smol · task.eval_format=QCM-T · task.train_format=QCM-T · train.steps=600"


@pytest.mark.parametrize(("title", "more"), [("scienceqa · mini", ("train_peak_bytes",)), (REAL, ())])
def test_the_leaderboard_in_the_readme_is_generated_from_the_records(title: str, more: tuple[str, ...]) -> None:
    readme = (RESULTS.parent / "README.md").read_text(encoding="utf-8")
    _, _, behind = readme.partition(f"<!-- table: {title} -->\n")
    assert behind.partition("\n<!-- end -->")[0] == front_table(title, more)


def front_table(title: str, more: tuple[str, ...]) -> str:
    """What README.md shows of a table of the leaderboard: accuracy and costs."""
    store = Store(RESULTS / "reference")
    columns = ("accuracy", "accuracy_img", "trainable_params", "train_step_ms", "infer_ms_per_sample", *more)
    text = render(store.read(), format="md", view=View("scienceqa", columns, None), scores=reader(store), published=())
    section = text.partition(f"## {title}\n")[2].partition("\n## ")[0]
    return "\n".join(line for line in section.splitlines() if line.startswith("|"))


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
