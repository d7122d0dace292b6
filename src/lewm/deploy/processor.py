"""What the processor at hand can do with numbers of 8 and 16 bits; no torch."""

import platform
import re
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
VNNI = {"avx512_vnni", "avx_vnni"}
"""Flags of x86 processors that add products of 8-bit numbers in 32 bits at once."""
BFLOAT16 = {"avx512_bf16", "amx_bf16", "bf16"}
"""Flags of x86 and ARM processors that multiply bfloat16 numbers."""


def sums_overflow() -> bool:
    """Say whether sums of 8-bit products can overflow here without a word, so that weights may have 7 bits only.

    They can on an x86 processor without VNNI, which adds two products in 16 bits. Where its flags cannot be read, it
    counts as one: 7 bits are right everywhere.
    """
    if platform.machine().lower() not in ("x86_64", "amd64", "i386", "i686"):
        return False
    return not VNNI & _flags()


def has_bfloat16() -> bool:
    """Say whether this processor multiplies bfloat16 numbers; where its flags cannot be read, it does not."""
    return bool(BFLOAT16 & _flags())


def _flags() -> set[str]:
    try:
        found = re.search(r"^(?:flags|Features)\s*:(.*)$", CPUINFO.read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        return set()
    return set(found[1].split()) if found else set()
