"""Mistakes on the command line: each is one line on stderr and exit 2 before any training."""

from __future__ import annotations

from pathlib import Path

import pytest

import tasks
from harness import cli

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "results" / "reference"
RUN = ("run", "--methods", "ademvl", "--task", "scienceqa", "--device", "cpu")
IMPORT, EXPORT = (("checkpoint", way, "x.pth", "--out", "y") for way in ("import", "export"))

MISTAKES = [
    ((), "the following arguments are required: COMMAND; see 'vltune --help'"),
    (("rnu",), "invalid choice: 'rnu'"),
    (("run", "--task", "scienceqa"), "--methods is missing: name what to run, or give --plan FILE"),
    ((*RUN, "--epoch", "3"), "unrecognized arguments: --epoch 3"),
    ((*RUN, "--methods", "ademlv"), "unknown method 'ademlv'; did you mean 'ademvl'?"),
    ((*RUN, "--methods", "ademvl,qqq"), "unknown method 'qqq'; known: ademvl, "),
    ((*RUN, "--methods", " , "), "no method is named; known: "),
    ((*RUN, "--task", "sciencqa"), "unknown task 'sciencqa'; did you mean 'scienceqa'?"),
    ((*RUN, "--backbone", "mimi"), "unknown backbone 'mimi'; did you mean 'mini'?"),
    ((*RUN, "--backbone", "llama-7b"), "llama-7b ships no weights"),
    ((*RUN, "--llm", "x"), "--llm needs --vision as well"),
    ((*RUN, "--vision", "x"), "--vision needs --llm as well"),
    ((*RUN, "--set", "ademvl.alhpa=1"), "--set ademvl.alhpa: no such field; did you mean 'alpha'?"),
    ((*RUN, "--set", "ademvl.alpha=much"), "--set ademvl.alpha: expected a number, got 'much'"),
    ((*RUN, "--set", "ademvl.hidden=1.5"), "--set ademvl.hidden: expected an integer, got '1.5'"),
    ((*RUN, "--set", "ademvl.cls=maybe"), "--set ademvl.cls: expected true or false, got 'maybe'"),
    ((*RUN, "--set", "ademvl.drop_ratio=1"), "ademvl: drop_ratio must be below 1, got 1.0"),
    ((*RUN, "--set", "ademvl.drop_ratio=-0.1"), "ademvl: drop_ratio must be at least 0, got -0.1"),
    ((*RUN, "--set", "ademvl.scales=63"), "ademvl: scales must be square numbers, got 63"),
    ((*RUN, "--set", "alpha=1"), "--set alpha=1: write SCOPE.FIELD=VALUE"),
    ((*RUN, "--set", "ademvl.alpha"), "--set ademvl.alpha: write SCOPE.FIELD=VALUE"),
    ((*RUN, "--set", "memvp.slots=9"), "--set memvp: method memvp is not selected; add it to --methods"),
    ((*RUN, "--set", "adem.alpha=9"), "--set adem: unknown scope; did you mean 'ademvl'?"),
    ((*RUN, "--set", "scienceqa.answer_by=luck"), "scienceqa: answer_by cannot be 'luck'"),
    ((*RUN, "--set", "train.lr=0"), "train: lr must be above 0, got 0.0"),
    ((*RUN, "--set", "train.accumulate=5"), "train: accumulate must divide batch_size (32), got 5"),
    ((*RUN, "--steps", "5", "--set", "train.steps=6"), "--steps and --set train.steps say the same; keep one"),
    ((*RUN, "--steps", "5", "--set", "train.epochs=6"), "train: set exactly one of epochs and steps"),
    ((*RUN, "--epochs", "1", "--steps", "5"), "argument --steps: not allowed with argument --epochs"),
    *(
        ((*RUN, flag, value), f"argument {flag}: must be a whole number of at least 1, got {value!r}")
        for flag in ("--epochs", "--batch-size", "--train-limit", "--eval-limit")
        for value in ("0", "-1", "1.5")
    ),
    *(
        (
            (*RUN, "--steps", value),
            f"argument --steps: must be a whole number of at least 1 (0 with --init), got {value!r}",
        )
        for value in ("-1", "1.5")
    ),
    ((*RUN, "--steps", "0"), "train.steps=0 must be at least 1 for ademvl, or give --init ademvl=DIR to evaluate it"),
    ((*RUN, "--seeds", "0,x"), "argument --seeds: seeds are whole numbers from 0 to 4294967295, got 'x'"),
    ((*RUN, "--seeds", "-1"), "argument --seeds: seeds are whole numbers from 0 to 4294967295, got '-1'"),
    ((*RUN, "--seeds", ","), "argument --seeds: names no seed"),
    ((*RUN, "--precision", "fp16"), "--precision fp16 needs a GPU; on a CPU use fp32 or bf16"),
    ((*RUN, "--precision", "fp8"), "argument --precision: invalid choice: 'fp8'"),
    ((*RUN, "--device", "gpu"), "--device cannot be 'gpu'; use auto, cpu or cuda:N"),
    ((*RUN, "--kernels", "triton"), "--kernels triton: Triton "),
    ((*RUN, "--data-root", "/no/such/folder"), "--data-root /no/such/folder: no such folder"),
    (
        ("params", "--methods", "ademvl", "--backbone", "lama-7b"),
        "unknown backbone 'lama-7b'; did you mean 'llama-7b'?",
    ),
    (("list", "metods"), "invalid choice: 'metods'"),
    (("leaderboard", "--results", "/no/such/folder"), "--results /no/such/folder: no such folder"),
    (("leaderboard", "--results", ".", "--format", "xls"), "invalid choice: 'xls'"),
    (
        ("leaderboard", "--results", str(REFERENCE), "--task", "sciencqa"),
        "unknown task 'sciencqa'; did you mean 'scienceqa'?",
    ),
    (("data", "check", "--task", "sciencqa", "--data-root", "."), "unknown task 'sciencqa'; did you mean 'scienceqa'?"),
    (("data", "check", "--task", "scienceqa", "--data-root", "/no/such/folder"), "/no/such/folder"),
    (("data", "mini", "--train", "0"), "argument --train: must be a whole number of at least 1, got '0'"),
    (("backbone", "pretrain", "smol"), "invalid choice: 'smol'"),
    (("checkpoint", "improt"), "invalid choice: 'improt'"),
    (("checkpoint", "import", "x.pth", "--out", "y"), "the following arguments are required: --format"),
    ((*IMPORT, "--format", "ademlv"), "unknown format 'ademlv'; did you mean 'ademvl'?"),
    ((*EXPORT, "--format", "own"), "unknown format 'own'; known: ademvl, beit3, llama, llava, memvp, peft"),
    ((*IMPORT, "--format", "llava", "--method", "lava"), "unknown method 'lava'; did you mean 'llava'?"),
    (
        (*IMPORT, "--format", "llava", "--method", "lora"),
        "--method lora: format llava is for method llava; drop one of the two",
    ),
    ((*IMPORT, "--format", "llava", "--backbone", "lama-7b"), "unknown backbone 'lama-7b'; did you mean 'llama-7b'?"),
    ((*IMPORT, "--format", "llava", "--llm", "x"), "--llm needs --vision as well"),
    (
        (*IMPORT, "--format", "llava", "--set", "llava.tokns=4"),
        "--set llava.tokns: no such field; did you mean 'tokens'?",
    ),
    ((*IMPORT, "--format", "llava", "--set", "lora.rank=4"), "--set lora: method lora is not selected"),
    ((*IMPORT, "--format", "llava"), "x.pth: no such file; give LLaVA's mm_projector.bin"),
    (
        (*IMPORT, "--format", "llama", "--backbone", "mini"),
        "--backbone: format llama is a language model without a method",
    ),
    ((*IMPORT, "--format", "llama", "--method", "lora"), "--method: format llama is a language model without a method"),
    ((*EXPORT, "--format", "llava"), "x.pth: no such folder; give a folder of adapter.safetensors and vltune.json"),
]


def refused(argv: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of a mistake, after the checks that hold for every one."""
    assert cli.main(argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("vltune: error: ")
    assert err.count("\n") == 1
    return err.removeprefix("vltune: error: ").rstrip("\n")


@pytest.mark.parametrize(("argv", "message"), MISTAKES, ids=[" ".join(argv[-2:]) for argv, _ in MISTAKES])
def test_mistakes(
    argv: tuple[str, ...],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in refused(argv, capsys)
    assert list(tmp_path.iterdir()) == []


def test_a_cuda_device_that_is_not_there(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    line = refused((*RUN, "--device", "cuda:0"), capsys)
    assert line == "--device cuda:0: there is no CUDA device here; use --device auto"


def test_a_results_folder_that_cannot_be_written(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    line = refused((*RUN, "--results", str(tmp_path / "file" / "results")), capsys)
    assert f"results folder {tmp_path / 'file' / 'results'} cannot be written" in line
    assert "--results" in line


def test_a_broken_record(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "x.json").write_text("{", encoding="utf-8")
    assert "x.json" in refused(("leaderboard", "--results", str(tmp_path)), capsys)


@pytest.mark.parametrize("where", ["missing/x.md", "."])
def test_a_table_that_cannot_be_written(where: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    line = refused(("leaderboard", "--results", str(tmp_path), "--out", str(tmp_path / where)), capsys)
    assert f"--out {tmp_path / where}: cannot be written" in line


def test_errors_of_the_library_are_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> list[str]:
        raise tasks.DataError("problems.json: line 3\ncolumn 4")

    monkeypatch.setattr(tasks, "names", fail)
    assert refused(("list", "tasks"), capsys) == "problems.json: line 3 column 4"
