"""What this processor computes fast, as far as its system tells, without torch."""

from functools import cache
from pathlib import Path
from typing import Final, Literal

Precision = Literal["float32", "bfloat16"]

_FLAGS: Final = Path("/proc/cpuinfo")


@cache
def cpu_precision() -> Precision:
    """bfloat16 where the processor multiplies matrices in it, by AMX, and the system lets it; else float32.

    AVX-512 computes in bfloat16, too, but no faster than in float32. Where there is no /proc, it is float32.
    """
    try:
        with _FLAGS.open() as lines:
            flags = next((line for line in lines if line.startswith("flags")), "")
    except OSError:
        return "float32"
    return "bfloat16" if "amx_bf16" in flags.split() else "float32"
