"""Find the reference of Caffe's augmentation, which lies beside the benchmark that times it."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
