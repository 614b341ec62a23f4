"""``python -m benchmarks.gpu`` runs :func:`benchmarks.gpu.gpu_report.main`."""

import sys

from benchmarks.gpu.gpu_report import main

sys.exit(main())
