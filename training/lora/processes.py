"""Tell which process of ``accelerate launch`` this is, before there is a process group."""

from __future__ import annotations

from sra_fast.tools.launched_processes import count as count
from sra_fast.tools.launched_processes import is_first as is_first
from sra_fast.tools.launched_processes import rank as rank
