"""What the processor at hand can do with 8-bit numbers; no torch."""

import platform
import re
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
VNNI = {"avx512_vnni", "avx_vnni"}
"""Flags of x86 processors that add products of 8-bit numbers in 32 bits at once."""


def sums_overflow() -> bool:
    """Say whether sums of 8-bit products can overflow here without a word, so that weights may have 7 bits only.

    They can on an x86 processor without VNNI, which adds two products in 16 bits. Where its flags cannot be read, it
    counts as one: 7 bits are right everywhere.
    """
    if platform.machine().lower() not in ("x86_64", "amd64", "i386", "i686"):
        return False
    try:
        flags = re.search(r"^flags\s*:(.*)$", CPUINFO.read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        return True
    return flags is None or not VNNI & set(flags[1].split())
