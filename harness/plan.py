"""From the command line to a Plan: every cell to run, with every option resolved and checked before any work starts.

Values come from the defaults of methods and tasks (the papers'), then the backbone's recipe, then the protocol, then
the command line.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import methods
import tasks
from harness import machine, plan_checks, recipes, settings, space
from harness.backbones import BackboneSpec, Precision
from harness.backbones import check as check_backbone
from harness.cluster import options as cluster
from harness.parallel import launch
from harness.resume.every import Every
from harness.settings import UsageError, suggest
from methods import setting

if TYPE_CHECKING:
    from harness.checkpoints.own import Saved

Given = Mapping[str, Mapping[str, str]]
"""What the command line sets: texts by scope (a method, a task or `train`) and field."""


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """How every method of a plan is trained; exactly one of `epochs` and `steps` is set."""

    epochs: int | None = setting(None, "passes over the training examples", low=1)
    steps: int | None = setting(None, "optimiser steps; 0 evaluates a checkpoint as it is", low=0)
    batch_size: int = setting(32, "examples per optimiser step", low=1)
    accumulate: int = setting(1, "micro-batches per optimiser step", low=1)
    lr: float | None = setting(None, "peak learning rate at this batch size; none for 9e-3 * batch_size / 256", above=0)
    warmup: float = setting(0.1, "share of all steps that warm up", source="2 of 20 epochs", low=0, below=1)
    weight_decay: float = setting(0.02, "of matrices; biases and other 1-D parameters have none", low=0)
    beta1: float = setting(0.9, "AdamW's first moment", low=0, below=1)
    beta2: float = setting(0.95, "AdamW's second moment", low=0, below=1)
    clip_norm: float | None = setting(None, "largest norm of all gradients; none for no clipping", above=0)
    eval_batch_size: int = setting(16, "examples per batch of evaluation", low=1)
    compile: bool = setting(False, "train through torch.compile")
    checkpointing: bool = setting(False, "compute activations again in the backward pass, to save memory")

    def __post_init__(self) -> None:
        methods.check_limits(self)
        if (self.epochs is None) == (self.steps is None):
            raise ValueError(f"set exactly one of epochs and steps, got epochs={self.epochs} and steps={self.steps}")
        if self.batch_size % self.accumulate:
            raise ValueError(f"accumulate must divide batch_size ({self.batch_size}), got {self.accumulate}")

    @property
    def peak_lr(self) -> float:
        """`lr`, or what the authors' rule makes of the batch size."""
        return 9e-3 * self.batch_size / 256 if self.lr is None else self.lr


@dataclass(frozen=True, kw_only=True)
class CellPlan:
    """One run. `explicit` holds what the command line set, as `scope.field` (or a run option's name): value.

    `init` is the checkpoint that training starts from; None for the method's own initialisation. `tuned` is what tuning
    left behind; None where nothing is tuned, or not yet.
    """

    method_name: str
    method: methods.Method
    task_name: str
    task: tasks.Task
    seed: int
    train: TrainOptions
    explicit: dict[str, Any]
    init: Saved | None = None
    tuned: space.Tuned | None = None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything one `run` does.

    Attributes:
        backbone: which one and from where; its name is a label when `llm` and `vision` are given.
        data_root: where the task's data lies; None for the generated data of the mini world.
        cells: ordered by task, then seed, then method.
        device: `cpu` or `cuda:N`.
        recipe, protocol: the names of those that were used.
        argv: the command line.
        tuning: what every trained method may spend on the choice of its settings; None to take them as they are.
        every: how often the state of a training is kept.
        worker: one of several processes that another one has started: it waits for nobody and prints no table.
        launch: this process among those that share each cell.
        memory_gib: what each process may have; None for as much as there is.
    """

    backbone: BackboneSpec
    data_root: Path | None
    cells: tuple[CellPlan, ...]
    train_limit: int | None
    eval_limit: int | None
    precision: Precision
    device: str
    kernels: machine.Kernels
    results: Path
    fresh: bool
    save: bool
    profile: bool
    tensorboard: bool
    isolate: bool
    recipe: str
    protocol: str
    argv: tuple[str, ...]
    tuning: space.Budget | None
    every: Every
    worker: bool
    launch: launch.Launch
    memory_gib: float | None

    def alone(self, cell: CellPlan) -> Plan:
        """This plan for one cell, to be sent to a process of its own."""
        # A task keeps pictures it has read; a new one of the same options has none to send.
        cell = dataclasses.replace(cell, task=dataclasses.replace(cell.task))
        return dataclasses.replace(self, cells=(cell,), fresh=True)


def build(args: argparse.Namespace) -> Plan:
    """Resolve and check what `run` was asked for.

    Raises:
        UsageError: a field, value, device, folder or combination that cannot be used.
        methods.UnknownName, tasks.UnknownName, harness.backbones.BackboneError: an unknown name.
        harness.store.StoreError: the results folder cannot be written.
    """
    spec = backbone_spec(args)
    protocol = recipes.protocol(args.protocol)
    recipe = recipes.load(spec.name).under(protocol)
    cells = _cells(args, recipe)
    if args.data_root is not None and not args.data_root.exists():
        raise UsageError(f"--data-root {args.data_root}: no such folder; name the folder that holds the task's files")
    started = launch.find(args.parallel)
    device = cluster.device(args, started)
    plan_checks.extras(args, device)
    plan_checks.launched(args, started, cells)
    if args.shard is not None:
        cells = args.shard.of(cells)
    plan = Plan(
        backbone=spec,
        data_root=args.data_root,
        cells=cells,
        train_limit=args.train_limit,
        eval_limit=args.eval_limit,
        precision=machine.resolve_precision(args.precision or recipe.precision, device),
        device=device,
        kernels=machine.resolve_kernels(args.kernels or "auto", device),
        results=args.results,
        fresh=args.fresh or args.profile,
        save=args.save,
        profile=args.profile,
        tensorboard=args.tensorboard,
        isolate=device != "cpu" and started.alone if args.isolate is None else args.isolate,
        recipe=recipe.name,
        protocol=protocol.name,
        argv=args.argv,
        tuning=space.budget(args),
        every=Every(args.checkpoint_steps, args.checkpoint_minutes),
        worker=args.worker,
        launch=started,
        memory_gib=args.memory_gib,
    )
    if plan.tuning is not None:
        space.check(cells)
    from harness.store import Store

    Store(plan.results).check_writable()
    return plan


def _cells(args: argparse.Namespace, recipe: recipes.Recipe) -> tuple[CellPlan, ...]:
    """Every cell with its options: what the recipe says, and over it the command line."""
    for flag in ("methods", "task"):
        if getattr(args, flag) is None:
            raise UsageError(f"--{flag} is missing: name what to run, or give --plan FILE")
    method_names = choose(args.methods, methods.names(), kind="method")
    task_names = choose(args.task, tasks.names(), kind="task")
    given = _given(args, method_names, task_names)
    chosen = {name: _method(name, recipe, given) for name in method_names}
    initial = _initial(args.init, method_names, given)
    chosen |= {name: (saved.method, {}) for name, saved in initial.items()}
    on = {name: _task(name, recipe, given) for name in task_names}
    trains = {(m, t): _train(recipe, given, m, t) for m in method_names for t in task_names}
    plan_checks.divisible(on, trains)
    plan_checks.trained(chosen, initial, trains)
    shared = _explicit(args)
    return tuple(
        CellPlan(
            method_name=method_name,
            method=method,
            task_name=task_name,
            task=task,
            seed=seed,
            train=trains[method_name, task_name][0],
            explicit=shared | trains[method_name, task_name][1] | task_explicit | method_explicit,
            init=initial.get(method_name),
        )
        for task_name, (task, task_explicit) in on.items()
        for seed in args.seeds
        for method_name, (method, method_explicit) in chosen.items()
    )


def _explicit(args: argparse.Namespace) -> dict[str, Any]:
    """The options of all cells that the command line sets."""
    names = ("train_limit", "eval_limit", "text_tokens", "image_size", "weights", "precision", "kernels")
    shared = {name: getattr(args, name) for name in names}
    profiled = {"profile": True} if args.profile else {}
    return {name: value for name, value in shared.items() if value is not None} | profiled


def build_methods(args: argparse.Namespace) -> tuple[tuple[str, methods.Method], ...]:
    """The methods that `params` or `flops` was asked for, with the backbone's recipe and `--set` applied.

    Raises:
        UsageError, methods.UnknownName, harness.backbones.BackboneError: as `build`.
    """
    recipe = recipes.load(backbone_spec(args, shapes=True).name)
    names = choose(args.methods, methods.names(), kind="method")
    given = _given(args, names, _counted(args))
    return tuple((name, _method(name, recipe, given)[0]) for name in names)


def build_task(args: argparse.Namespace) -> tasks.Task | None:
    """The task whose own parameters `params` was asked to count too.

    Raises:
        UsageError, tasks.UnknownName: as `build`; or several tasks are named.
    """
    names = _counted(args)
    if len(names) > 1:
        raise UsageError(f"--task {args.task}: name one task; its parameters are counted with each method's")
    recipe = recipes.load(backbone_spec(args, shapes=True).name)
    given = {scope: fields for scope, fields in settings.parse_overrides(args.set).items() if scope in names}
    return next((_task(name, recipe, given)[0] for name in names), None)


def _counted(args: argparse.Namespace) -> list[str]:
    return choose(args.task, tasks.names(), kind="task") if getattr(args, "task", None) else []


def backbone_spec(args: argparse.Namespace, *, shapes: bool = False) -> BackboneSpec:
    """The backbone that the command line names; a pair without a name is called after its two parts.

    With `shapes` only for the sizes of its parts, which takes no weights.

    Raises:
        harness.backbones.BackboneError: unknown name, half a pair, or no weights to be had.
    """
    pair = f"{Path(args.llm).name}+{Path(args.vision).name}" if args.llm and args.vision else None
    spec = BackboneSpec(
        name=args.backbone or pair or "mini",
        llm=args.llm,
        vision=args.vision,
        encoder=args.encoder,
        tokenizer=args.tokenizer,
        weights=_weights(args, shapes=shapes),
        text_tokens=getattr(args, "text_tokens", None),
        image_size=getattr(args, "image_size", None),
    )
    check_backbone(spec, shapes=shapes)
    return spec


def _weights(args: argparse.Namespace, *, shapes: bool) -> Literal["pretrained", "random"]:
    if shapes:  # a file of `--encoder` says itself which heads it has
        return "random" if args.encoder is None else "pretrained"
    return args.weights or "pretrained"


def choose(text: str, known: Sequence[str], *, kind: str) -> list[str]:
    """The names of a comma list, each once; `all` stands for every known one.

    Raises:
        UsageError: an empty list or an unknown name.
    """
    names = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names:
        raise UsageError(f"no {kind} is named; {suggest('', known)}")
    if "all" in names:
        return list(known)
    for name in names:
        if name not in known:
            raise UsageError(f"unknown {kind} {name!r}; {suggest(name, known)}")
    return names


def _given(args: argparse.Namespace, method_names: list[str], task_names: list[str]) -> Given:
    """What `--set` and the training flags say, every scope checked."""
    given = settings.parse_overrides(args.set)
    scopes = ["train", *method_names, *task_names]
    if "blind" in method_names:
        scopes.append(_twin(methods.load("blind"), given.get("blind", {})))
    for scope in given:
        if scope in scopes:
            continue
        for kind, flag, known in (("method", "--methods", methods.names()), ("task", "--task", tasks.names())):
            if scope in known:
                raise UsageError(f"--set {scope}: {kind} {scope} is not selected; add it to {flag} or drop this --set")
        raise UsageError(f"--set {scope}: unknown scope; {suggest(scope, scopes)}")
    for flag in ("epochs", "steps", "batch_size"):
        if (value := getattr(args, flag, None)) is not None:
            train = given.setdefault("train", {})
            if flag in train:
                raise UsageError(f"--{flag.replace('_', '-')} and --set train.{flag} say the same; keep one")
            train[flag] = str(value)
    return given


def _initial(items: Sequence[str], method_names: Sequence[str], given: Given) -> dict[str, Saved]:
    """The checkpoints of `--init`, by method; their fields are the method's, so that nothing else may set them."""
    found: dict[str, Saved] = {}
    for item in items:
        name, _, folder = item.partition("=")
        if not folder or name not in method_names or name in found:
            raise UsageError(
                f"--init {item}: write METHOD=DIR, once for a method of --methods; {suggest(name, method_names)}"
            )
        from harness.checkpoints import own

        saved = own.load(Path(folder).expanduser())
        if saved.method_name != name:
            raise UsageError(f"--init {item}: holds a checkpoint of {saved.method_name}, not of {name}")
        if name in given:
            field = next(iter(given[name]))
            raise UsageError(f"--set {name}.{field}: the checkpoint of --init says what {name} is; drop this --set")
        found[name] = saved
    return found


def _twin(blind: type[methods.Method], fields: Mapping[str, Any]) -> str:
    """The name of the method that `blind` trains."""
    default = next(field.default for field in dataclasses.fields(blind) if field.name == "of")
    return str(fields.get("of", default))


def _method(name: str, recipe: recipes.Recipe, given: Given) -> tuple[methods.Method, dict[str, Any]]:
    """A method, and what of it the command line set; `blind` also gets the settings of the method it trains."""
    cls = methods.load(name)
    fields, explicit = _fields(cls, name, recipe, recipe.methods, given)
    if name == "blind":
        of = _twin(cls, fields)
        inner, inner_explicit = _fields(methods.load(of), of, recipe, recipe.methods, given)
        fields["fields"] = tuple(sorted(inner.items()))
        explicit |= inner_explicit
    return settings.make(cls, fields, scope=name), explicit


def _task(name: str, recipe: recipes.Recipe, given: Given) -> tuple[tasks.Task, dict[str, Any]]:
    cls = tasks.load(name)
    fields, explicit = _fields(cls, name, recipe, recipe.tasks, given)
    return settings.make(cls, fields, scope=name), explicit


def _fields(
    cls: type, scope: str, recipe: recipes.Recipe, tables: Mapping[str, Mapping[str, Any]], given: Given
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The fields that recipe and command line set, and those of the command line alone by `scope.field`."""
    base = settings.read(cls, tables.get(scope, {}), where=f"{recipe.file}: {scope}.")
    own = settings.read(cls, given.get(scope, {}), where=f"--set {scope}.")
    return base | own, {f"{scope}.{field}": value for field, value in own.items()}


def _train(recipe: recipes.Recipe, given: Given, method: str, task: str) -> tuple[TrainOptions, dict[str, Any]]:
    """The training options of one cell; `blind` is trained as the method it stands for."""
    if method == "blind":
        method = _twin(methods.load("blind"), recipe.methods.get("blind", {}) | dict(given.get("blind", {})))
    base = settings.read(TrainOptions, recipe.train_of(method, task), where=f"{recipe.file}: train.")
    own = settings.read(TrainOptions, given.get("train", {}), where="--set train.")
    options = settings.make(TrainOptions, recipes.overlay_train(base, own), scope="train")
    resolved = dataclasses.replace(options, lr=options.peak_lr)
    return resolved, {f"train.{field}": value for field, value in own.items()}
