"""What `doctor` says of the machine: GPU, compilers, folders, memory, cores. Writes nothing."""

from __future__ import annotations

import contextlib
import math
import os
import shlex
import shutil
import sysconfig
import tempfile
import time
import warnings
from pathlib import Path
from types import ModuleType

from harness import backbones, provenance
from harness.doctor.packages import Answer, install, nvidia_driver, says, size

LEAST_FREE_BYTES = 10**9
LEAST_RAM_BYTES = 8 * 10**9
"""Backbone mini trains in 1.7 GB, smol in 6.2 GB (results/reference)."""

_CGROUP = Path("/sys/fs/cgroup")
_COUNTING_S = 1.0
_APT_CXX, _APT_HEADERS = "install g++ (Debian: apt-get install g++) or set CXX", "apt-get install python3-dev"


def cuda(torch: ModuleType | None) -> Answer:
    """The devices of torch."""
    if torch is None:
        return "missing", "unknown without torch", install()
    count, complaint = devices(torch)
    driver, hidden = nvidia_driver(), os.environ.get("CUDA_VISIBLE_DEVICES")
    if count:
        found = [torch.cuda.get_device_properties(index) for index in range(count)]
        names = ", ".join(f"{device.name} {size(device.total_memory)}" for device in found)
        return "ok", f"{names}, driver {driver or 'unknown'}", ""
    if complaint:
        return "missing", complaint, "update the NVIDIA driver, or torch to match it"
    if driver is None:
        return "missing", "none, runs use the CPU", "with an NVIDIA GPU, install its driver"
    if hidden is not None and torch.version.cuda:
        return "missing", f"hidden by CUDA_VISIBLE_DEVICES={hidden!r}", "unset CUDA_VISIBLE_DEVICES"
    return "missing", f"driver {driver}, but torch finds no device", "see torch above; nvidia-smi must list the GPU"


def devices(torch: ModuleType | None) -> tuple[int, str]:
    """How many CUDA devices torch can use, and what it says when it is asked."""
    if torch is None:
        return 0, ""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return count, " ".join(str(said[0].message).split()) if said else ""


def bf16(torch: ModuleType | None) -> Answer:
    """Whether bf16 is fast here."""
    if torch is not None and devices(torch)[0]:
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "ok", "in the GPU's hardware", ""
        return "limited", "emulated by this GPU", "--precision fp16, or fp32"
    if found := {"amx_bf16", "avx512_bf16", "bf16"}.intersection(_words(Path("/proc/cpuinfo"))):
        return "ok", f"in the CPU's hardware ({', '.join(sorted(found))})", ""
    return "limited", "not in the CPU's hardware: slower than fp32", "--precision fp32, the default on a CPU"


def triton(torch: ModuleType | None) -> Answer:
    """Whether the fused kernels run, and why not."""
    version = provenance.version("triton")
    if not version:
        return "missing", "Triton is not installed, the reference runs instead", install("gpu")
    if torch is None:
        return "limited", f"Triton {version}, unknown without torch", install()
    from methods.kernels import memory_read

    device = torch.device("cuda" if devices(torch)[0] else "cpu")
    reason, _, fix = (memory_read.unavailable(device) or "").partition("; ")
    if reason:
        return "limited", f"Triton {version}, the reference runs instead: {reason}", fix
    if memory_read.INTERPRETED:
        return "limited", f"Triton {version}, interpreted, which is slow", "unset TRITON_INTERPRET"
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        return "limited", f"Triton {version}, but no C compiler to start kernels with", "install gcc or set CC"
    if not _has_headers():
        return "limited", f"Triton {version}, but no Python.h to start kernels with", _APT_HEADERS
    return "ok", f"Triton {version} on {device}", ""


def nvml() -> Answer:
    """Whether energy and memory of a GPU can be read."""
    version = provenance.version("nvidia-ml-py")
    if not version:
        return "missing", "nvidia-ml-py is not installed", install("gpu")
    import pynvml

    try:
        pynvml.nvmlInit()
        count = pynvml.nvmlDeviceGetCount()
        pynvml.nvmlShutdown()
    except pynvml.NVMLError as error:
        return "limited", f"nvidia-ml-py {version}, but {error}", "install the NVIDIA driver, if there is a GPU"
    return "ok", f"nvidia-ml-py {version}, devices: {count}", ""


def _has_headers() -> bool:
    return Path(sysconfig.get_paths()["include"], "Python.h").is_file()


def compiler() -> Answer:
    """What torch.compile needs on a CPU."""
    own = os.environ.get("CXX")
    found = shutil.which(shlex.split(own)[0]) if own else shutil.which("g++") or shutil.which("clang++")
    if found is None:
        lack = f"CXX={own} is no program" if own else "none, so --set train.compile=true cannot run on a CPU"
        return "missing", lack, _APT_CXX
    said = (says(found, "--version") or "it does not say its version").splitlines()[0]
    if not _has_headers():
        return "limited", f"{said}, {found}, but no Python.h: torch.compile fails on a CPU", _APT_HEADERS
    return "ok", f"{said}, {found}", ""


def cache_folder(cache: Path | None) -> Answer:
    """Where data and converted weights are kept."""
    choose = "set VLTUNE_CACHE to a folder that can be written"
    try:
        folder = (cache or backbones.cache_folder()).absolute()
    except RuntimeError as error:
        return "missing", f"{error}", choose
    return _folder(folder, _weight(folder), choose)


def results_folder(results: Path) -> Answer:
    """Where records would be written."""
    folder = results.absolute()
    # As `Store.read` has it, which needs packages that may be missing.
    count = sum(not path.name.startswith(".") for path in (folder / "runs").rglob("*.json"))
    return _folder(folder, f"{count:,} record{'s' * (count != 1)}", "choose another with --results DIR")


def _folder(folder: Path, content: str, choose: str) -> Answer:
    """A folder, or the place where it would be made: trial file and free space, nothing left behind."""
    try:
        place = next(path for path in (folder, *folder.parents) if path.exists())
        with tempfile.TemporaryFile(dir=place) as trial:
            trial.write(b"trial")
            trial.flush()
        free = shutil.disk_usage(place).free
    except OSError as error:
        return "missing", f"{folder} cannot be written ({error.strerror})", choose
    said = f"{folder}{'' if folder.exists() else ', not made yet'}, {content}, {size(free)} free"
    return ("limited", said, f"free some space, or {choose}") if free < LEAST_FREE_BYTES else ("ok", said, "")


def _weight(folder: Path) -> str:
    """Size of all files; of those met within a second where there are many."""
    total, end = 0, time.monotonic() + _COUNTING_S
    for where, _, names in os.walk(folder):
        with contextlib.suppress(OSError):  # removed meanwhile
            total += sum(os.lstat(f"{where}{os.sep}{name}").st_size for name in names)
        if time.monotonic() > end:
            return f"more than {size(total)}"
    return size(total)


def ram() -> Answer:
    """Memory of this machine, or of its container."""
    limits = [provenance.ram_bytes(), *(int(word) for word in _words(_CGROUP / "memory.max") if word.isdecimal())]
    known = [limit for limit in limits if limit is not None]
    if not known:
        return "limited", "unknown on this system", "mind that backbone smol takes 6 GB"
    if min(known) < LEAST_RAM_BYTES:
        return "limited", f"{size(min(known))}, backbone smol takes 6 GB", "--backbone mini, or a smaller --batch-size"
    return "ok", size(min(known)), ""


def cpu(torch: ModuleType | None) -> Answer:
    """Cores, and the threads of torch on them."""
    affinity, quota = getattr(os, "sched_getaffinity", None), _words(_CGROUP / "cpu.max")
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    if len(quota) == 2 and quota[0].isdecimal():
        cores = min(cores, math.ceil(int(quota[0]) / int(quota[1])))
    asked = os.environ.get("OMP_NUM_THREADS")
    threads = torch.get_num_threads() if torch else None
    said = f"{provenance.cpu_model()}, {cores} core{'s' * (cores != 1)}, threads of torch: {threads or 'unknown'}, "
    said += f"OMP_NUM_THREADS {asked or 'not set'}"
    if threads and threads > cores:
        return "limited", f"{said}: they wait for each other", f"export OMP_NUM_THREADS={cores}"
    if threads and threads < cores and asked:
        return "limited", f"{said}: cores stay idle", "unset OMP_NUM_THREADS"
    return "ok", said, ""


def _words(path: Path) -> list[str]:
    """What a file of the kernel says; empty where there is none, as on other systems or outside of containers."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").split()
    except OSError:
        return []


def hub() -> Answer:
    """Offline flags and cache of Hugging Face."""
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    home = Path(os.environ.get("HF_HOME") or Path(caches) / "huggingface")
    hub = Path(os.environ.get("HF_HUB_CACHE") or home / "hub")
    said = f"{sum(1 for _ in hub.glob('models--*'))} models in {hub}"
    flags = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    set_ = [name for name in flags if os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE")]
    if set_:
        return "limited", f"offline by {' and '.join(set_)}, {said}", f"unset {' '.join(set_)} to load others by id"
    return "ok", f"online, {said}", ""
