"""Pretraining of the mini vision tower: a small CLIP-style ViT by image-caption contrast on pictures of the mini world.

Methods read post_layernorm(hidden_states[-2]): the contrast is taken there, on the mean of the patches and on CLS,
besides on CLS after the last block. The text encoder is thrown away.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from random import Random

import numpy as np
import torch
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel

from harness.backbones.mini.pretrain_schedule import rate_factor
from tasks.mini.render import SIZE, render
from tasks.mini.world import COLOURS, COUNTS, KINDS, LANDMARKS, PATTERNS, PLACES, WEATHERS, Scene, sample_scene

MEAN = STD = 0.5
"""Normalisation of every channel after scaling to [0, 1]."""

PROPERTIES: dict[str, tuple[object, ...]] = {
    "place": PLACES,
    "weather": WEATHERS,
    "kind": KINDS,
    "count": COUNTS,
    "colour": COLOURS,
    "pattern": PATTERNS,
    "left": LANDMARKS,
    "right": LANDMARKS,
}


@dataclass(frozen=True)
class VisionRecipe:
    """Sizes and schedule of the vision tower's pretraining."""

    steps: int = 2000
    batch_size: int = 128
    pool: int = 32_768
    lr: float = 1e-3
    warmup_steps: int = 100
    weight_decay: float = 0.05
    width: int = 128
    ffn: int = 384
    layers: int = 4
    heads: int = 4
    patch: int = 14
    embed: int = 64
    group: int = 8


class CaptionEncoder(nn.Module):
    """Embeds a caption given as a bag of phrases, one per property ("kind box", "left tree", ...)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.phrases = nn.ParameterDict(
            {name: nn.Parameter(0.5 * torch.randn(len(values), 128)) for name, values in PROPERTIES.items()}
        )
        self.head = nn.Sequential(nn.LayerNorm(128), nn.Linear(128, 256), nn.GELU(), nn.Linear(256, width))

    def forward(self, labels: dict[str, Tensor]) -> Tensor:
        """Unit embeddings [B, E] of captions naming the given values (indices [B]) of the given properties."""
        bag = torch.stack([self.phrases[name][index] for name, index in labels.items()]).sum(0)
        return nn.functional.normalize(self.head(bag), dim=-1)


def similar_scenes(rng: Random, count: int) -> list[Scene]:
    """An arbitrary scene and variants of it with one or two properties changed: hard negatives for the contrast."""
    anchor = sample_scene(rng)
    scenes = [anchor]
    while len(scenes) < count:
        donor = sample_scene(rng)
        names = rng.sample([field.name for field in fields(Scene)], rng.randint(1, 2))
        scene = replace(anchor, **{name: getattr(donor, name) for name in names})
        if scene.left != scene.right and scene.other != scene.colour and scene not in scenes:
            scenes.append(scene)
    return scenes


def pixels(images: np.ndarray) -> Tensor:
    """Normalised pixel values [B, 3, SIZE, SIZE] of uint8 pictures [B, SIZE, SIZE, 3]."""
    return (torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255 - MEAN) / STD


def features(model: CLIPVisionModel, values: Tensor) -> tuple[Tensor, Tensor]:
    """post_layernorm(hidden_states[-2]) [B, 1 + P, C], CLS first, and the last block's pooled CLS [B, C]."""
    out = model(pixel_values=values, output_hidden_states=True)
    tower = getattr(model, "vision_model", model)
    return tower.post_layernorm(out.hidden_states[-2]), out.pooler_output


def train_vision(
    *,
    seed: int,
    recipe: VisionRecipe,
    checkpoint: Callable[[CLIPVisionModel, int], None] | None = None,
    every: int = 500,
) -> CLIPVisionModel:
    """Contrastive training on a rendered pool; calls `checkpoint(model, step)` every so many steps."""
    torch.manual_seed(seed)
    model: CLIPVisionModel = CLIPVisionModel(_config(recipe)).train()
    captions = CaptionEncoder(recipe.embed)
    heads = nn.ModuleList(nn.Linear(recipe.width, recipe.embed, bias=False) for _ in range(3))
    scale = nn.Parameter(torch.tensor(math.log(10.0)))
    trained = [*model.parameters(), *captions.parameters(), *heads.parameters(), scale]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=recipe.lr, betas=(0.9, 0.98))
    factor = functools.partial(rate_factor, warmup=recipe.warmup_steps, steps=recipe.steps)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    pictures, labels = render_pool(Random(seed + 2), recipe.pool, recipe.group)
    rng, started, running = np.random.default_rng(seed), time.perf_counter(), 0.0
    for step in range(1, recipe.steps + 1):
        firsts = rng.choice(recipe.pool // recipe.group, recipe.batch_size // recipe.group, replace=False)
        chosen = (firsts[:, None] * recipe.group + np.arange(recipe.group)).reshape(-1)
        batch_labels = {name: values[chosen] for name, values in labels.items()}
        with torch.autocast("cpu", torch.bfloat16):
            tokens, pooled = features(model, pixels(pictures[chosen]))
        views = (tokens[:, 1:].float().mean(1), tokens[:, 0].float(), pooled.float())
        embedded = [nn.functional.normalize(head(view), dim=-1) for head, view in zip(heads, views, strict=True)]
        losses = [_contrast(view, captions, batch_labels, scale.exp().clamp(max=50.0)) for view in embedded]
        loss = torch.stack(losses).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        running += loss.item()
        if step % 100 == 0:
            print(f"vision {step} loss {running / 100:.4f} {time.perf_counter() - started:.0f} s", flush=True)
            running = 0.0
        if checkpoint is not None and step % every == 0:
            checkpoint(model, step)
    model.eval()
    return model


def render_pool(rng: Random, count: int, group: int) -> tuple[np.ndarray, dict[str, Tensor]]:
    """`count` pictures in consecutive groups of similar scenes, and the index of each property's value."""
    scenes = [scene for _ in range(count // group) for scene in similar_scenes(rng, group)]
    pictures = np.empty((len(scenes), SIZE, SIZE, 3), dtype=np.uint8)
    for index, scene in enumerate(scenes):
        pictures[index] = np.asarray(render(scene, index))
    labels = {
        name: torch.tensor([values.index(getattr(scene, name)) for scene in scenes])
        for name, values in PROPERTIES.items()
    }
    return pictures, labels


def probe_accuracy(
    model: CLIPVisionModel, *, n_train: int = 3000, n_test: int = 1000, seed: int = 7
) -> dict[str, dict[str, float]]:
    """Linear probes per property on held-out scenes, reading the patches' mean and CLS of the features methods use."""
    pictures, labels = render_pool(Random(seed), n_train + n_test, 1)
    model.eval()
    with torch.no_grad():
        tokens = [features(model, pixels(pictures[i : i + 100]))[0] for i in range(0, len(pictures), 100)]
    states = torch.cat(tokens)
    read = {"patches": states[:, 1:].mean(1), "cls": states[:, 0]}
    return {
        view: {name: _probe(vectors, labels[name], n_train) for name in PROPERTIES} for view, vectors in read.items()
    }


def _probe(vectors: Tensor, labels: Tensor, n_train: int) -> float:
    mean, std = vectors[:n_train].mean(0), vectors[:n_train].std(0)
    inputs = (vectors - mean) / (std + 1e-6)
    probe = nn.Linear(inputs.shape[1], int(labels.max()) + 1)
    nn.init.zeros_(probe.weight)
    nn.init.zeros_(probe.bias)
    optimizer = torch.optim.LBFGS(probe.parameters(), max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(probe(inputs[:n_train]), labels[:n_train])
        loss = loss + 1e-3 * probe.weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    guesses = probe(inputs[n_train:]).argmax(1)
    return float((guesses == labels[n_train:]).float().mean())


def _contrast(images: Tensor, captions: CaptionEncoder, labels: dict[str, Tensor], scale: Tensor) -> Tensor:
    """Symmetric InfoNCE against full captions, plus contrast with the one-phrase captions of each property."""
    logits = scale * images @ captions(labels).T
    target = torch.arange(len(images))
    full = nn.functional.cross_entropy(logits, target) + nn.functional.cross_entropy(logits.T, target)
    single = images.new_zeros(())
    for name, values in PROPERTIES.items():
        phrases = captions({name: torch.arange(len(values))})
        single = single + nn.functional.cross_entropy(scale * images @ phrases.T, labels[name])
    return full / 2 + single / len(PROPERTIES)


def _config(recipe: VisionRecipe) -> CLIPVisionConfig:
    return CLIPVisionConfig(
        hidden_size=recipe.width,
        intermediate_size=recipe.ffn,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        image_size=SIZE,
        patch_size=recipe.patch,
        projection_dim=recipe.embed,
        initializer_factor=2.0,
    )
