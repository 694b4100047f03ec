"""Whether `torch.compile` can work here, and from when on it pays.

Compiling takes about a minute on a GPU, more with several input sizes, and saves a part of each
step; on a CPU, where oneDNN's convolutions are most of a step, there is little to save.
"""

from __future__ import annotations

# On a GPU; below this the wait is not made up for.
LEAST_COMPILED_STEPS = 1000


def is_compiled(wanted: bool | str, device: str, num_steps: int) -> bool:
    """Whether a network is to be compiled.

    Args:
        wanted: False; True for where it pays; or "always".
        device: kind of device that the network is on, such as `cuda`.
        num_steps: of the whole training, so that a resumed one decides as before.
    """
    if wanted == "always":
        return True
    return bool(wanted) and device == "cuda" and num_steps >= LEAST_COMPILED_STEPS


def why_not_compiled(device: str) -> str:
    """What torch.compile lacks on this machine; empty if nothing.

    Args:
        device: kind of device that the network is on, such as `cuda`.
    """
    from torch._inductor import cpp_builder
    from torch._inductor.exc import InvalidCxxCompiler
    from torch.utils._triton import has_triton

    try:
        cpp_builder.get_cpp_compiler()
    except InvalidCxxCompiler:
        return "there is no C++ compiler (install g++, or set CXX to one)"
    if device == "cuda" and not has_triton():
        return "triton is missing, or does not know this GPU (pip install triton)"
    return ""
