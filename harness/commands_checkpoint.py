"""The `checkpoint ...` commands: read and write the formats of the methods' authors."""

from __future__ import annotations

import argparse

import methods
from harness import checkpoints
from harness.settings import UsageError, parse_overrides, suggest


def checkpoint_import(args: argparse.Namespace) -> int:
    """`checkpoint import`: read an authors' checkpoint, and print the folder that it became."""
    checkpoints.check(args.format)
    if args.format == checkpoints.LLAMA:
        _refuse_options(args)
        from harness.checkpoints import llama

        llama.import_(args.source, args.out)
    else:
        from harness import plan

        args.methods = _method_of(args)
        [(name, method)] = plan.build_methods(args)
        spec = plan.backbone_spec(args, shapes=True)
        from harness.checkpoints.convert import import_

        explicit = parse_overrides(args.set).get(name, {})
        import_(args.format, args.source, args.out, method=method, backbone=spec, explicit=explicit)
    print(args.out)
    return 0


def checkpoint_export(args: argparse.Namespace) -> int:
    """`checkpoint export`: write a folder of ours in an authors' format, and print where."""
    checkpoints.check(args.format)
    if args.format == checkpoints.LLAMA:
        if args.without_head:
            raise UsageError("--without-head: format llama is a language model without a task; drop --without-head")
        from harness.checkpoints import llama_export

        llama_export.export(args.source, args.out)
    else:
        from harness.checkpoints.convert import export

        export(args.format, args.source, args.out, without_head=args.without_head)
    print(args.out)
    return 0


def _method_of(args: argparse.Namespace) -> str:
    """The method of a checkpoint's format; `--method` may only say the same."""
    name = checkpoints.method_of(args.format)
    if args.method not in (None, *methods.names()):
        raise UsageError(f"unknown method {args.method!r}; {suggest(args.method, methods.names())}")
    if args.method not in (None, name):
        raise UsageError(f"--method {args.method}: format {args.format} is for method {name}; drop one of the two")
    return name


def _refuse_options(args: argparse.Namespace) -> None:
    for name in ("method", "backbone", "llm", "vision", "encoder", "tokenizer", "image_size", "set"):
        if getattr(args, name):
            flag = f"--{name.replace('_', '-')}"
            raise UsageError(f"{flag}: format llama is a language model without a method; drop {flag}")
