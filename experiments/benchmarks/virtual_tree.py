"""A Brownian path on a grid known in advance, against diffrax's `VirtualBrownianTree`, compiled."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from experiments.benchmarks.comparison import Case, Run, import_peer
from experiments.benchmarks.known_grid import DIM, NAMES, generator_path, seeded_path


def cases(quick: bool) -> Iterator[Case]:
    """Neither a generator nor seeds, which do what a virtual tree does, must be slower."""
    steps, batches = (20, (1, 4)) if quick else (1000, (1, 1024))
    times = [k / steps for k in range(steps + 1)]
    cells = 2 ** (steps - 1).bit_length()
    for batch in batches:
        for depth, name in NAMES.items():
            what = f"{name} on {steps} steps, batch {batch}, d = {DIM}, float32"
            # diffrax recommends a tolerance of half a step. For a single path vmap over the steps is five times as fast
            # as a loop; for many a loop over the steps, the whole batch at once, is twice as fast as vmap.
            peer = f"diffrax `VirtualBrownianTree`, {'vmap' if batch == 1 else 'lax.map'} over the steps, jit"
            run_peer = _tree(batch, depth, times, tolerance=0.5 / steps, vectorized=batch == 1)
            repetitions = 3 if quick or batch > 1 else 15
            run_ours = generator_path(batch, depth, times)
            yield Case(what, "generator, all steps at once", peer, run_ours, run_peer, repetitions, target=1.0)
            if batch == 1:
                run_seeds = seeded_path(batch, depth, steps, cells)
                yield Case(what, f"seeds, cells={cells}", peer, run_seeds, run_peer, repetitions, target=1.0)


def _tree(batch: int, depth: int, times: list[float], *, tolerance: float, vectorized: bool) -> Run:
    """diffrax: construction and all steps, in one compiled function of the key."""
    jax, diffrax = import_peer("jax"), import_peer("diffrax")
    grid = jax.numpy.asarray(times, dtype="float32")
    value = jax.ShapeDtypeStruct((batch, DIM), "float32")
    levy_area = diffrax.BrownianIncrement if depth == 1 else diffrax.SpaceTimeLevyArea

    def steps(key: object) -> object:
        path = diffrax.VirtualBrownianTree(0.0, 1.0, tolerance, value, key, levy_area)

        def step(ends: tuple[object, object]) -> object:
            return path.evaluate(*ends, use_levy=True)

        over: Callable[[Callable], Callable] = jax.vmap if vectorized else lambda f: lambda x: jax.lax.map(f, x)
        return over(step)((grid[:-1], grid[1:]))

    compiled = jax.jit(steps)
    key = jax.random.key(0)
    return lambda: jax.block_until_ready(compiled(key))
