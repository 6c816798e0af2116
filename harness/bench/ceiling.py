"""What this machine can do at best, measured on the spot: copy bandwidth and matrix product rate."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from harness.bench.timing import alternate


@dataclass(frozen=True)
class Ceiling:
    """Bytes per second read plus written by a large copy, and FLOPs per second of a large matrix product."""

    copy_bytes_per_s: float
    matmul_flops_per_s: float

    def roofline_ms(self, *, flops: float, moved_bytes: float) -> float:
        """The shortest time for this much work: whichever of the two limits binds."""
        return 1e3 * max(flops / self.matmul_flops_per_s, moved_bytes / self.copy_bytes_per_s)


def measure(device: torch.device, dtype: torch.dtype, *, rounds: int = 5, reduced: bool = False) -> Ceiling:
    """The best of a few rounds, at sizes far beyond the caches (`reduced`: small, for tests)."""
    cuda = device.type == "cuda"
    side = 256 if reduced else 8192 if cuda else 2048
    count = 2**20 if reduced else 2**29 if cuda else 2**26
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    source = torch.zeros(count, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    product = torch.empty(side, side, device=device, dtype=dtype)
    times = alternate(
        {"copy": lambda: target.copy_(source), "matmul": lambda: torch.matmul(left, right, out=product)},
        device=device,
        rounds=rounds,
    )
    return Ceiling(2 * count / (times["copy"].ms.p20 / 1e3), 2 * side**3 / (times["matmul"].ms.p20 / 1e3))
