"""Compiles the kernels of `memory_read` for a Hopper GPU, which none is needed for; prints what became of each as JSON.

A program of its own: where TRITON_INTERPRET is set, Triton's functions cannot be compiled.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from methods.kernels.memory_read import triton as kernels

HOPPER = GPUTarget("cuda", 90, 32)
SLOTS, WIDTH = 320, 4096
POINTERS = {"seed_at": "*i64", "mask_at": "*u8"}


def compiled(kernel: Any, config: triton.Config, constants: dict[str, Any]) -> dict[str, Any]:
    """What Triton makes of a kernel for bfloat16 tensors: bytes of shared memory, count of wide matrix products."""
    constants = constants | config.kwargs
    signature = {name: kind(name, constants) for name in kernel.arg_names}
    # As at a launch: torch's tensors begin at multiples of 16 bytes.
    aligned = {
        (place,): [["tt.divisibility", 16]] for place, name in enumerate(kernel.arg_names) if name.endswith("_at")
    }
    source = ASTSource(
        fn=kernel,
        signature=signature,
        constexprs={(kernel.arg_names.index(name),): value for name, value in constants.items()},
        attrs=aligned,
    )
    options = {"num_warps": config.num_warps, "num_stages": config.num_stages}
    found = triton.compile(source, target=HOPPER, options=options)
    return {"shared_bytes": found.metadata.shared, "wide_products": found.asm["ptx"].count("wgmma.mma_async")}


def kind(name: str, constants: dict[str, Any]) -> str:
    """The type of one argument."""
    if name in constants:
        return "constexpr"
    if name.endswith("_at"):
        return POINTERS.get(name, "*bf16")
    return "i32" if name in ("tokens", "rank") else "fp32"


def main() -> None:
    head, tail = kernels._split(SLOTS)
    sizes = {"SLOTS": SLOTS, "WIDTH": WIDTH, "ADEM": True, "BITS": 16}
    read = sizes | {"HEAD": head, "TAIL": tail, "DROPS": True}
    jobs = {
        "read": (kernels._read, kernels.READ_CONFIGS[0], read | {"RESIDUAL": False, "MASK": True}),
        "read_backward": (kernels._read_backward, kernels.READ_CONFIGS[0], read),
        "sum_backward": (kernels._sum_backward, kernels.SUM_CONFIGS[0], sizes),
    }
    made = {name: compiled(kernel, config, constants) for name, (kernel, config, constants) in jobs.items()}
    sys.stdout.write(json.dumps(made))


if __name__ == "__main__":
    main()
