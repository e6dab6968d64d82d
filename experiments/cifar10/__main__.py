"""`python -m experiments.cifar10 --data cifar10_train.tar.xz --extractor FEATURES.pt --device cuda`; see --help.

On two cores: `--scale cpu`.
"""

from __future__ import annotations

from pathlib import Path

from experiments.cifar10.setting import STUDIES
from experiments.image_study.program import main

if __name__ == "__main__":
    main(str(Path(__file__).parent), STUDIES)
