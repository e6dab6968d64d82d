"""`python -m experiments.mnist --data mnist.npz:x_train --extractor FEATURES.pt`: teacher, students, and the table.

On two cores it takes some hours, on a GPU (`--device cuda`) minutes; see --help.
"""

from __future__ import annotations

from pathlib import Path

from experiments.image_study.program import main
from experiments.mnist.setting import STUDIES

if __name__ == "__main__":
    main(str(Path(__file__).parent), STUDIES)
