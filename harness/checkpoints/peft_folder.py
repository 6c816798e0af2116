"""Format `peft`: a folder of peft's LoRA, for method `lora`.

    adapter_config.json          rank, alpha, dropout, target modules, DoRA, rsLoRA: the method's fields
    adapter_model.safetensors    base_model.model.<layer>.lora_A.weight ...: the method's, without `lora.`
    projector.safetensors        adapter_projector.fc1.weight ...: the visual prompt, which peft does not know
    head.safetensors             head.vision_head.weight ...: a task's head, where there is one

The last two are not peft's: what peft itself has saved has no visual prompt and gets a new one, which is to be trained.

What is written loads with `peft.PeftModel.from_pretrained` on the language model alone. Options of peft that the method
has not (biases, patterns of ranks, modules that are saved whole, starts that change the frozen weights) are refused.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import peft
import torch
from safetensors.torch import save_file
from torch import Tensor

from harness.checkpoints import CheckpointError, Foreign, reading, writing
from harness.checkpoints.own import HEAD, Saved
from methods import Method, VLModel
from methods.lora import PREFIX, LoRA

WHAT = "a folder of peft's adapter_config.json and adapter_model.safetensors"
CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
PROJECTOR, HEAD_FILE = "projector.safetensors", "head.safetensors"
BASE = "base_model.model."
PROJECTOR_PREFIX = "adapter_projector."
NEW = "no visual prompt in it, so that one is new (as training from seed 0 begins): train it before use"
SEED = 0
FIELDS = {"r": "rank", "lora_alpha": "alpha", "lora_dropout": "dropout", "use_dora": "dora", "use_rslora": "rslora"}
ABOUT = {"auto_mapping", "base_model_name_or_path", "inference_mode", "peft_version", "revision", "task_type"}
STARTS = (None, True, False, "gaussian", "orthogonal", "eva")  # the others change the frozen weights too


def read(source: Path) -> Foreign:
    """Weights, and what the configuration says about the method's fields.

    Raises:
        CheckpointError: see `reading`; no LoRA, or options that the method has not.
    """
    reading.check_folder(source, what=WHAT)
    fields = _fields(source / CONFIG)
    state = {PREFIX + name: tensor for name, tensor in reading.safetensors_file(source / TENSORS, what=WHAT).items()}
    for file in (PROJECTOR, HEAD_FILE):
        if (source / file).exists():
            state |= reading.safetensors_file(source / file, what=WHAT)
    if any(name.startswith(PROJECTOR_PREFIX) for name in state):
        return Foreign(state, fields)
    return Foreign(state, fields, complete=_new_projector, note=NEW)


def write(saved: Saved, out: Path) -> None:
    """A folder for `PeftModel.from_pretrained`.

    Raises:
        CheckpointError: the folder holds something or cannot be written; a tensor that is none of the three parts'.
    """
    lora, projector, head = (_part(saved.state, prefix) for prefix in (PREFIX, PROJECTOR_PREFIX, HEAD))
    if odd := sorted(name for name in saved.state if not name.startswith((PREFIX, PROJECTOR_PREFIX, HEAD))):
        raise CheckpointError(f"--out {out}: peft's format has no place for {odd[0]!r}; keep our own format")
    if not isinstance(saved.method, LoRA):
        raise CheckpointError(f"--out {out}: peft's format is for method lora, not {saved.method_name}")
    with writing.new_folder(out) as beside:
        layers = sorted({name.removeprefix(BASE).split(".lora_")[0] for name in lora})
        config = saved.method.peft_config(layers, decoder=bool(projector))
        config.inference_mode = True
        config.save_pretrained(str(beside))
        save_file(lora, beside / TENSORS, metadata={"format": "pt"})
        if projector:
            save_file({PROJECTOR_PREFIX + name: tensor for name, tensor in projector.items()}, beside / PROJECTOR)
        if head:
            save_file({HEAD + name: tensor for name, tensor in head.items()}, beside / HEAD_FILE)


def _new_projector(method: Method, model: VLModel) -> dict[str, Tensor]:
    """The visual prompt that training from seed 0 begins with; none on an encoder, which needs none."""
    if not isinstance(method, LoRA) or "llm.input" not in model.offers:
        return {}
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(SEED)
        prompt = method.visual_prompt(model)
    return {PROJECTOR_PREFIX + name: parameter.detach() for name, parameter in prompt.named_parameters()}


def _part(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def _fields(path: Path) -> dict[str, Any]:
    config = reading.json_file(path, what=WHAT)
    if config.get("peft_type") != "LORA":
        raise CheckpointError(f"{path}: peft_type is {config.get('peft_type')!r}; only LORA has a method here")
    default = dataclasses.asdict(peft.LoraConfig())
    known = {"peft_type", "target_modules", "init_lora_weights", *FIELDS, *ABOUT}
    for name, value in config.items():
        if name not in known and value and value != default.get(name):
            raise CheckpointError(f"{path}: {name} is {value!r}, which method lora has not; merge or train without it")
    if (start := config.get("init_lora_weights")) not in STARTS:
        raise CheckpointError(f"{path}: init_lora_weights is {start!r}, which changes the frozen weights; convert it")
    if lacking := sorted({"r", "lora_alpha", "target_modules"} - set(config)):
        raise CheckpointError(f"{path}: lacks {lacking[0]!r}; give {WHAT}")
    given = {ours: config[theirs] for theirs, ours in FIELDS.items() if theirs in config}
    return given | {"target_modules": _targets(config["target_modules"], path)}


def _targets(modules: Any, path: Path) -> list[str]:
    """The method's names of layers: the last part of peft's, or the last but one of an expert (`q_proj.A`)."""
    if not isinstance(modules, list) or not modules or not all(isinstance(name, str) for name in modules):
        raise CheckpointError(f"{path}: target_modules is {modules!r}; write the layers' names as a list")
    parts = [name.split(".") for name in modules]
    short = (names[-2] if names[-1] in ("A", "B") and len(names) > 1 else names[-1] for names in parts)
    return sorted(set(short))
