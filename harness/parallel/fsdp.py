"""FSDP2: the weights of each layer are split over the processes of a run, and put together while the layer runs."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from harness.backbones.backbone import Backbone
from harness.parallel.ranks import Ranks
from methods import Attachment


def shard(model: Backbone, attachment: Attachment, ranks: Ranks, device: torch.device) -> None:
    """Split the layers of the backbone's towers; what stands between them (embeddings, last norms) stays whole.

    What a method has added to a layer stays whole too. There is no way back.

    Args:
        model: the backbone.
        attachment: of the method, attached to it.
        ranks: all of them hold a part.
        device: of this process; the backbone is on the CPU, whose memory holds it whole.
    """
    mesh = init_device_mesh(device.type, (ranks.count,))
    for layer in model.layers:
        added = _added(layer, attachment)
        fully_shard(layer, mesh=mesh, reshard_after_forward=True, ignored_params=added)
    heads = [] if model.head is None else [model.head]
    for module in (*model.towers, attachment.module, *heads):
        for tensor in (*module.parameters(), *module.buffers()):
            if not isinstance(tensor, DTensor):
                tensor.data = tensor.data.to(device)


def _added(layer: nn.Module, attachment: Attachment) -> set[nn.Parameter]:
    """What is trained in a layer; nothing where the layer itself is trained, with its frozen weights gone."""
    own = set(layer.parameters())
    trained = own & set(attachment.parameters())
    return set() if trained == own else trained


def is_split(model: Backbone) -> bool:
    """Whether `shard` has split its layers."""
    return any(isinstance(parameter, DTensor) for layer in model.layers for parameter in layer.parameters())


def own_part(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor: all of it, unless it is split."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """A tensor put together where it is split, which every process has to ask for."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def clip(parameters: Sequence[nn.Parameter], most: float) -> None:
    """Scale all gradients so that their common norm is `most` at most, split ones and whole ones.

    Source: `torch.nn.utils.clip_grad_norm_`, which takes one kind at a time.
    """
    if not any(isinstance(parameter, DTensor) for parameter in parameters):
        torch.nn.utils.clip_grad_norm_(parameters, most)
        return
    with_gradient = [parameter for parameter in parameters if parameter.grad is not None]
    split = [parameter for parameter in with_gradient if isinstance(parameter, DTensor)]
    kept = [parameter for parameter in with_gradient if not isinstance(parameter, DTensor)]
    kinds = [kind for kind in (split, kept) if kind]
    norms = [torch.nn.utils.get_total_norm([p.grad for p in kind if p.grad is not None]) for kind in kinds]
    norm = torch.tensor(math.hypot(*(float(whole(norm)) for norm in norms)), device=with_gradient[0].device)
    for kind in kinds:
        torch.nn.utils.clip_grads_with_norm_(kind, most, norm)
