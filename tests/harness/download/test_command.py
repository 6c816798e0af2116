"""`data download` as it is typed: exit codes, one line for each mistake, Ctrl-C, and the commands that it ends with."""

from __future__ import annotations

import io
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from harness import cli
from tests.harness.download.archives import tarred, zipped
from tests.harness.download.server import Handler, Site, says
from tests.harness.download.test_check import put_scienceqa

ROOT = Path(__file__).parents[3]


def command(site: Site, root: Path, *more: str, name: str = "scienceqa") -> list[str]:
    return ["data", "download", name, "--data-root", str(root), "--base-url", site.url, *more]


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    error = capsys.readouterr().err
    assert error.startswith("vltune: error: ")
    assert error.count("\n") == 1
    return error


def test_it_ends_with_what_comes_next(site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put_scienceqa(site)
    root = tmp_path / "my data"
    assert cli.main(command(site, root)) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "is whole. Terms of scienceqa: CC BY-NC-SA 4.0. Next:" in out
    *_, checking, running = out.splitlines()
    assert checking.strip() == f"vltune data check --task scienceqa --data-root {shlex.quote(str(root))}"
    for line in (checking, running):
        assert cli.parser().parse_args(shlex.split(line)[1:]).data_root == root


def test_data_check_reads_what_was_downloaded(site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    png = io.BytesIO()
    Image.new("RGB", (2, 2)).save(png, "PNG")
    put_scienceqa(site, picture=png.getvalue())
    assert cli.main(command(site, tmp_path)) == 0
    capsys.readouterr()
    check = ["data", "check", "--task", "scienceqa", "--data-root"]
    assert cli.main([*check, str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "train: 2 examples, 2 with a picture"
    assert lines[-1] == f"{tmp_path}: 6 files as download.json has them"
    (tmp_path / "images/val/3/image.png").unlink()
    assert cli.main([*check, str(tmp_path)]) == 2
    assert f"'vltune data download scienceqa --data-root {tmp_path}' fetches what is missing" in one_line(capsys)
    assert cli.main([*check, str(tmp_path / "none")]) == 2
    assert "none: no such folder; point --data-root at" in (line := one_line(capsys))
    assert f"'vltune data download scienceqa --data-root {tmp_path / 'none'}' fetches problems.json" in line


def test_again_it_fetches_nothing(site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put_scienceqa(site)
    assert cli.main(command(site, tmp_path)) == 0
    site.requests.clear()
    assert cli.main(command(site, tmp_path)) == 0
    assert site.requests == []
    assert "val.zip: is there already" in capsys.readouterr().out


def test_a_file_that_cannot_be_had(site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put_scienceqa(site)
    site.planned["/captions.json"] = [says(404)]
    assert cli.main(command(site, tmp_path)) == 1
    assert f"captions.json: {site.url}/captions.json answers 404 Not Found; try later" in one_line(capsys)
    assert (tmp_path / "problems.json").exists()


def test_a_mirror_with_another_file_than_the_published(
    site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    site.files["/caption_datasets.zip"] = zipped({"dataset_coco.json": b"{}"})
    assert cli.main(command(site, tmp_path, name="coco")) == 1
    assert "the published file has 36,745,453" in one_line(capsys)


@pytest.mark.parametrize(
    ("name", "more", "message"),
    [
        ("coc", [], "argument NAME: invalid choice: 'coc'"),
        ("coco", ["--base-url", "ftp://x"], "--base-url: must begin with https:// or http://"),
        ("coco", ["--archive", "x.zip"], "--archive: all of coco is fetched from its addresses; drop it"),
        ("flickr8k", ["--archive", "/no/such.zip"], "--archive /no/such.zip: no such file"),
    ],
)
def test_bad_usage_fetches_nothing(
    name: str, more: list[str], message: str, site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(command(site, tmp_path / "data", *more, name=name)) == 2
    assert message in one_line(capsys)
    assert list(tmp_path.iterdir()) == []
    assert site.requests == []


def test_a_folder_that_is_a_file(site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert cli.main(command(site, tmp_path / "file")) == 2
    assert f"--data-root {tmp_path / 'file'}: cannot be made or written" in one_line(capsys)


def test_ctrl_c_keeps_what_came(site: Site, tmp_path: Path) -> None:
    put_scienceqa(site)
    whole = site.files["/train.zip"]

    def stalls(request: Handler) -> None:
        request.answer(200, whole[:100], length=len(whole))
        time.sleep(30)

    site.planned["/train.zip"] = [stalls]
    process = subprocess.Popen(
        [sys.executable, "-m", "harness", *command(site, tmp_path)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    part = tmp_path / "train.zip.part"
    while process.poll() is None and not (part.exists() and part.stat().st_size == 100):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == "what was fetched stays; the same command goes on from there\nvltune: interrupted\n"
    assert part.read_bytes() == whole[:100]
    site.requests.clear()
    assert cli.main(command(site, tmp_path)) == 0
    ranges = {path: headers["Range"] for path, headers in site.requests}
    assert ranges["/train.zip"] == "bytes=100-"
    assert "/problems.json" not in ranges


def test_pictures_to_be_asked_for(tmp_path: Path, site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    archive = tmp_path / "flickr30k-images.tar.gz"
    archive.write_bytes(tarred(("flickr30k-images/1.jpg", b"x")))
    root = tmp_path / "data"
    assert cli.main(command(site, root, "--archive", str(archive), name="flickr30k")) == 1
    assert "caption_datasets.zip" in one_line(capsys)


def test_help_and_the_table_are_quick() -> None:
    code = (
        "import sys; from harness import cli; cli.parser(); "
        "print(sorted({'torch', 'pydantic', 'tqdm', 'urllib.request'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    assert done.stdout == "[]\n"
