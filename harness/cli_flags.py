"""Flags that several commands have."""

from __future__ import annotations

import argparse
from pathlib import Path

from harness import cli_values as values


def add_backbone(command: argparse.ArgumentParser) -> None:
    """Which backbone, with what weights, and `--set`."""
    command.add_argument("--backbone", metavar="NAME", help="default: mini, or the pair given by --llm and --vision")
    command.add_argument("--llm", metavar="PATH", help="Hugging Face id or folder of a Llama; needs --vision")
    command.add_argument("--vision", metavar="PATH", help="the same of a CLIP, DINOv2 or SigLIP tower; needs --llm")
    command.add_argument("--encoder", metavar="FILE", help="weights of a BEiT-3 (.pth or .safetensors)")
    command.add_argument("--tokenizer", metavar="FILE", help="tokenizer of a BEiT-3 (beit3.spm)")
    command.add_argument(
        "--image-size",
        type=values.count,
        metavar="PIXELS",
        help="per side that a BEiT-3 reads, such as 384 (default: 224)",
    )
    add_set(command, "a field of a method, an option of a task, or train.FIELD; may be repeated")


def add_set(command: argparse.ArgumentParser, help: str) -> None:
    """`--set`, which may be repeated."""
    command.add_argument("--set", action="append", default=[], metavar="SCOPE.FIELD=VALUE", help=help)


def add_results(command: argparse.ArgumentParser) -> None:
    """`--results`: the folder of records."""
    command.add_argument("--results", type=Path, default=Path("results"), metavar="DIR", help="default: results")
