"""``python -m benchmarks.cpu`` runs :func:`benchmarks.cpu.measure_all.main`."""

import sys

from benchmarks.cpu.measure_all import main

sys.exit(main())
