"""Samples of a generator, and their file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdesig._checks import check_integer
from sdesig._files import open_arrays, replacing, take_array
from sdesig.sampling.path_space import in_todays_words


@dataclass(frozen=True, eq=False)
class Samples:
    """Samples of a generator, and the identity of their paths.

    Attributes:
        values: x = y/tau at the last SNR, (n, *event): samples of the data with noise of variance 1/tau left.
        steps: number of steps.
        identity: identity of the Brownian paths (`BrownianPath.identity`); the same identity gives the same samples
            again, and at other numbers of steps the samples of the same paths.
    """

    values: Tensor
    steps: int
    identity: dict[str, Any]

    def __repr__(self) -> str:
        return f"Samples({len(self.values)} of shape {tuple(self.values.shape[1:])}, steps={self.steps})"

    @property
    def seeds(self) -> list[int]:
        """The seed of every sample."""
        return list(self.identity["seeds"])

    @classmethod
    def join(cls, parts: Sequence[Samples]) -> Samples:
        """The samples of several calls in one: values and seeds in order.

        Raises:
            ValueError: no parts; parts whose numbers of steps or paths differ.
        """
        if not parts:
            raise ValueError("parts must be one or more; got none")
        of_all = {(part.steps, json.dumps({**part.identity, "seeds": []}, sort_keys=True)) for part in parts}
        if len(of_all) > 1:
            raise ValueError(f"parts must have the same number of steps and the same paths but for seeds; got {parts}")
        seeds = [seed for part in parts for seed in part.seeds]
        identity = {**parts[0].identity, "seeds": seeds}
        return cls(torch.cat([part.values for part in parts]), parts[0].steps, identity)

    def save(self, file: str | Path) -> None:
        """Write a .npz file: values, steps, identity (JSON)."""
        with replacing(Path(file)) as temporary, temporary.open("wb") as stream:
            np.savez_compressed(
                stream,
                values=self.values.detach().cpu().numpy(),
                steps=np.int64(self.steps),
                identity=np.array(json.dumps(self.identity)),
            )

    @classmethod
    def load(cls, file: str | Path) -> Samples:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError, ValueError: no such file, or not one of samples.
        """
        with open_arrays(Path(file), "is not a file of samples") as arrays:
            values, steps = take_array(arrays, "values"), take_array(arrays, "steps")
            if not np.issubdtype(values.dtype, np.floating) or values.ndim < 2:
                raise ValueError(f"values must be floats of shape (n, *event); got {values.dtype} {values.shape}")
            if steps.ndim or not np.issubdtype(steps.dtype, np.integer):
                raise ValueError(f"steps must be an integer; got {steps.dtype} of shape {steps.shape}")
            identity = json.loads(str(take_array(arrays, "identity")))
            seeds = identity.get("seeds") if isinstance(identity, dict) else None
            if not isinstance(seeds, list):
                raise ValueError("identity must be a JSON object with a list of seeds")
            identity = {key: value for key, value in in_todays_words(identity).items() if key != "slack"}
            for k, seed in enumerate(seeds):
                check_integer(f"seeds[{k}]", seed, 0)
            if len(seeds) != len(values):
                raise ValueError(f"{len(values)} values of {len(seeds)} seeds")
            return cls(torch.from_numpy(values), check_integer("steps", int(steps), 1), identity)
