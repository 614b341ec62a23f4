"""Run :func:`benchmarks.gpu.gpu_report.main` for the command ``python -m benchmarks.gpu``."""

import sys

from benchmarks.gpu.gpu_report import main

sys.exit(main())
