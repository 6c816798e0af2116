"""Our own format: what is saved comes back; anything else on the disk is refused in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import methods
from harness.checkpoints import CheckpointError, own
from tests.harness.checkpoints.conftest import random_state, same

if TYPE_CHECKING:
    from harness.backbones.decoder import DecoderModel

METHOD = methods.get("ademvl", scales=(16, 4), hidden=8, vision_adapter=4, drop_ratio=0.3)


@pytest.fixture
def state(tiny_model: DecoderModel) -> dict[str, Tensor]:
    return random_state(METHOD, tiny_model)


@pytest.fixture
def folder(tmp_path: Path, state: dict[str, Tensor]) -> Path:
    own.save(tmp_path / "mine", method_name="ademvl", method=METHOD, state=state, backbone="tiny", note="by hand")
    return tmp_path / "mine"


def test_what_is_saved_comes_back(folder: Path, state: dict[str, Tensor], tiny_model: DecoderModel) -> None:
    saved = own.load(folder)
    assert (saved.method_name, saved.method, saved.backbone, saved.note) == ("ademvl", METHOD, "tiny", "by hand")
    assert same(saved.state, state)
    attachment = saved.method.attach(tiny_model, seed=5)
    own.fit(saved.state, attachment.state_dict(), where="x")
    attachment.load_state_dict(saved.state)
    assert same(attachment.state_dict(), state)


def test_the_files_are_what_the_docstring_says(folder: Path, state: dict[str, Tensor]) -> None:
    assert sorted(path.name for path in folder.iterdir()) == ["adapter.safetensors", "vltune.json"]
    assert same(load_file(folder / "adapter.safetensors"), state)
    found = json.loads((folder / "vltune.json").read_text(encoding="utf-8"))
    assert list(found) == ["schema", "method", "fields", "backbone", "note", "sha256"]
    assert (found["schema"], found["fields"]["scales"], found["fields"]["drop_ratio"]) == (1, [16, 4], 0.3)


def test_nested_fields_come_back(tmp_path: Path) -> None:
    method = methods.get("blind", of="memvp", fields=(("slots", 400), ("scale", 1.0)))
    own.save(tmp_path / "x", method_name="blind", method=method, state={}, backbone="mini", note="")
    assert own.load(tmp_path / "x").method == method


def test_a_failed_save_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no memory\nfor that")

    monkeypatch.setattr(own, "save_file", fail)
    with pytest.raises(CheckpointError, match=r"x: cannot be written \(no memory\); name another place$"):
        own.save(tmp_path / "x", method_name="memvp", method=methods.get("memvp"), state={}, backbone="", note="")
    assert list(tmp_path.iterdir()) == []


def test_tensors_that_share_their_memory_come_back(tmp_path: Path) -> None:
    whole = torch.arange(6.0)
    state = {"a": whole, "b": whole, "c": whole[2:5], "d": whole.view(2, 3).T, "e": torch.zeros(0)}
    method = methods.get("memvp")
    own.save(tmp_path / "x", method_name="memvp", method=method, state=state, backbone="mini", note="")
    assert same(own.load(tmp_path / "x").state, state)


def test_nothing_is_overwritten(folder: Path, state: dict[str, Tensor]) -> None:
    before = (folder / "vltune.json").read_bytes()
    with pytest.raises(CheckpointError, match="is not empty; name a new folder"):
        own.save(folder, method_name="ademvl", method=METHOD, state=state, backbone="tiny", note="again")
    assert (folder / "vltune.json").read_bytes() == before


def test_an_empty_folder_is_taken(tmp_path: Path, state: dict[str, Tensor]) -> None:
    (tmp_path / "here").mkdir()
    own.save(tmp_path / "here", method_name="ademvl", method=METHOD, state=state, backbone="tiny", note="")
    assert same(own.load(tmp_path / "here").state, state)


DESCRIPTIONS = [
    ({"schema": 2}, r"vltune\.json: schema is 2, this version reads 1"),
    ({"schema": None}, r"vltune\.json: schema is None"),
    ({"method": "ademlv"}, r"vltune\.json: unknown method 'ademlv'; did you mean 'ademvl'\?"),
    ({"method": 3}, r"vltune\.json: method: Input should be a valid string"),
    ({"fields": {"alhpa": 1}}, r"vltune\.json: ademvl has no field 'alhpa'; did you mean 'alpha'\?"),
    ({"fields": {"drop_ratio": 2}}, r"vltune\.json: drop_ratio must be below 1, got 2\.0"),
    ({"fields": {"alpha": "x"}}, r"vltune\.json: fields\.alpha is 'x': Input should be a valid number"),
    ({"fields": {"scales": 5}}, r"vltune\.json: fields\.scales is 5: Input should be a valid tuple"),
    ({"extra": 1}, r"vltune\.json: extra: Extra inputs are not permitted"),
    ({"sha256": "0" * 64}, r"adapter\.safetensors: not what vltune\.json describes \(sha256\)"),
]


@pytest.mark.parametrize(("change", "message"), DESCRIPTIONS, ids=[str(change)[:30] for change, _ in DESCRIPTIONS])
def test_a_changed_description_is_refused(folder: Path, change: dict[str, object], message: str) -> None:
    path = folder / "vltune.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | change), encoding="utf-8")
    with pytest.raises(CheckpointError, match=message):
        own.load(folder)


@pytest.mark.parametrize("name", ["adapter.safetensors", "vltune.json"])
def test_missing_and_cut_files_are_refused(folder: Path, name: str) -> None:
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[:-20])
    with pytest.raises(CheckpointError, match=name):
        own.load(folder)
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name}: no such file"):
        own.load(folder)
    (folder / name).mkdir()
    with pytest.raises(CheckpointError, match=f"{name}: is a folder"):
        own.load(folder)


def test_a_file_or_nothing_instead_of_a_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such folder; give a folder of adapter.safetensors and vltune.json"):
        own.load(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="is a file; give a folder"):
        own.load(tmp_path / "file")


def test_changed_tensors_are_found_though_readable(folder: Path, state: dict[str, Tensor]) -> None:
    save_file({name: tensor + 1 for name, tensor in state.items()}, folder / "adapter.safetensors")
    with pytest.raises(CheckpointError, match="not what vltune.json describes"):
        own.load(folder)


def misfits() -> dict[str, tuple[dict[str, Tensor], str]]:
    good = {"a": torch.ones(2, 3), "b": torch.ones(4), "head.x": torch.ones(1)}
    return {
        "missing": ({"b": good["b"]}, r"^x: lacks 'a' of shape \(2, 3\); take the method, its fields"),
        "extra": (good | {"c": torch.ones(5)}, r"^x: has unknown 'c' of shape \(5,\);"),
        "shape": (good | {"a": torch.ones(3, 2)}, r"^x: 'a' has shape \(3, 2\), expected \(2, 3\);"),
        "nan": (good | {"b": torch.full((4,), float("nan"))}, r"^x: 'b' holds NaN or infinity"),
        "infinite head": (good | {"head.x": torch.tensor([float("inf")])}, r"^x: 'head.x' holds NaN or infinity"),
    }


@pytest.mark.parametrize("kind", misfits())
def test_a_misfit_names_key_and_shapes(kind: str) -> None:
    state, message = misfits()[kind]
    with pytest.raises(CheckpointError, match=message):
        own.fit(state, {"a": torch.empty(2, 3, device="meta"), "b": torch.empty(4, device="meta")}, where="x")


def test_a_head_is_held_against_the_tasks() -> None:
    expected, head = {"a": torch.empty(2)}, {"x": torch.empty(3), "y": torch.empty(())}
    good = {"a": torch.ones(2), "head.x": torch.ones(3), "head.y": torch.ones(())}
    own.fit(good, expected, where="x", head=head)
    own.fit({"a": torch.ones(2)}, expected, where="x", head=head)  # without one the task's is new
    for change, said in (
        ({"head.x": torch.ones(4)}, r"^x: 'head.x' has shape \(4,\), expected \(3,\); take the task, its options"),
        ({"head.z": torch.ones(1)}, r"^x: has unknown 'head.z' of shape \(1,\);"),
    ):
        with pytest.raises(CheckpointError, match=said):
            own.fit(good | change, expected, where="x", head=head)
    with pytest.raises(CheckpointError, match=r"^x: lacks 'head.y' of shape \(\);"):
        own.fit({name: t for name, t in good.items() if name != "head.y"}, expected, where="x", head=head)


def test_a_head_is_no_part_of_the_method() -> None:
    expected = {"a": torch.empty(2, device="meta")}
    own.fit({"a": torch.ones(2), "head.x": torch.ones(1)}, expected, where="x")
    with pytest.raises(CheckpointError, match="unknown 'x'"):
        own.fit({"a": torch.ones(2), "x": torch.ones(1)}, expected, where="x")
