"""Run :func:`benchmarks.cpu.measure_all.main` for the command ``python -m benchmarks.cpu``."""

import sys

from benchmarks.cpu.measure_all import main

sys.exit(main())
