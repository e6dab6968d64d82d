"""How often a host waits for a device, as counts: per step of a solver, per iteration of a training.

Reads of values and blocking copies both count, of the drawing of paths too. The bounds are what is needed now; a change
that waits more often is to be seen here.
"""

from collections import Counter
from itertools import pairwise

import pytest
import torch
from test_devices_distillation import DATA, distilled, space_on, student_on, teacher_on
from test_devices_solvers import reverse, solved
from torch import Generator, manual_seed, randn, tensor, zeros

from sdesig import images
from sdesig._checks import check_step, unread
from sdesig.brownian import BrownianPath, UniformClock
from sdesig.sampling import GaussianReference, SNRClock, TeacherOptions, choose_grid, information_floor
from sdesig.sde import VP
from sdesig.sde.problems import DoubleWell, GeometricBrownianMotion, LinearSDE, OrnsteinUhlenbeck
from sdesig.sigdeg import MLP, TrainingOptions, train_teacher

SCHEMES = [
    ("euler", LinearSDE),
    ("milstein", GeometricBrownianMotion),
    ("heun", LinearSDE),
    ("log_ode", OrnsteinUhlenbeck),
    ("sri2", GeometricBrownianMotion),
    ("taylor15", GeometricBrownianMotion),
    ("shark", DoubleWell),
    ("sra1", DoubleWell),
    ("platen", GeometricBrownianMotion),
    ("torchsde:milstein", GeometricBrownianMotion),
]


def waits_of(count):
    """By line; not those of the functions of this folder, which stand for a user's."""
    return Counter({where: n for where, n in count.everything.items() if "sdesig/" in where or "autograd" in where})


@pytest.fixture
def per_unit(counted):
    """Waits of a computation per unit, from the difference of two numbers of units; and those of the fewer ones."""

    def measure(compute, fewer=2, more=4):
        found = []
        for n in (fewer, more):
            with counted() as count:
                compute(n)
            found.append(waits_of(count))
        print("waits:", *found, sep="\n")  # is shown where a test fails
        return (found[1].total() - found[0].total()) / (more - fewer), found[0].total()

    return measure


def test_checks_within_unread_look_at_no_device(counted):
    """They look at the CPU as ever, and at types everywhere."""
    there, here = tensor([-1.0], device="virt"), tensor([-1.0])
    diffusion = VP()
    with counted() as count, unread():
        assert check_step("h", there) is there
        assert diffusion.check_time(there) is there
        for check in (lambda h: check_step("h", h), diffusion.check_time):
            with pytest.raises(ValueError, match="must be"):
                check(here)
            with pytest.raises(TypeError, match="must"):
                check(there.long())
    assert count.total == 0
    for check in (lambda h: check_step("h", h), diffusion.check_time):
        with pytest.raises(ValueError, match="must be"):
            check(there)


CLOCKS = {
    "uniform": UniformClock,
    "one": lambda: SNRClock(0.3),
    "coordinates": lambda: SNRClock(tensor([0.3, 2.0], device="virt")),
    "coordinates on the CPU": lambda: SNRClock(tensor([0.3, 2.0])),
    "a power": lambda: SNRClock(tensor([0.3, 2.0], device="virt"), 0.25),
}


@pytest.mark.parametrize("clock", CLOCKS)
@pytest.mark.parametrize("depth", [1, 2, 5])
@pytest.mark.parametrize("source", ["seeds", "generator"])
def test_a_query_of_a_path(per_unit, clock, depth, source):
    """One by one, at once and between known times; a path checks what it is given, once."""

    def compute(steps):
        given = {"seeds": range(3)} if source == "seeds" else {"generator": torch.Generator("virt").manual_seed(0)}
        options = {"clock": CLOCKS[clock](), "cells": 24, "depth": depth, "device": "virt"}
        # few terms of the areas: operations are slow here, and a wait in every term exceeds the bound below anyway
        tolerances = {False: None} if clock not in ("uniform", "one") else {False: None, True: 1e-2}
        for area, tolerance in tolerances.items():
            path = BrownianPath(0.1, 1.0, (3, 2), area=area, area_tolerance=tolerance, **options, **given)
            times = path.grid(steps).tolist()
            for s, t in pairwise(times):
                step = path.partial_signature(s, t)
                assert not area or step.levy_area is not None
            path.partial_signatures(path.grid(steps + 1))
            path(times[0], times[2])

    per_query, whole = per_unit(compute)
    assert per_query == 0
    assert whole <= 4


@pytest.mark.parametrize("scheme, problem", SCHEMES)
def test_a_step_of_a_scheme(counted, scheme, problem):
    """Reads alone: problems copy their numbers in every evaluation."""
    numbers = []
    for n in (4, 8):
        with counted() as count:
            solved("virt", problem, scheme, n, area=False)
        numbers.append(count.total)
    assert numbers[0] == numbers[1] <= 10


@pytest.mark.parametrize("scheme", ["path_average", "dpm_solver_1", "dpm_solver_2m"])
@pytest.mark.parametrize("kind", ["scalar", "coordinates", "pca"])
@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_a_step_of_a_reverse_scheme(per_unit, scheme, kind, eta):
    per_step, whole = per_unit(lambda n: reverse("virt", scheme, kind, eta, steps=n))
    assert per_step == 0
    assert whole <= 20


@pytest.mark.parametrize("cell", ["solver", "plain"])
@pytest.mark.parametrize("kind", ["scalar", "coordinates", "pca"])
def test_a_step_of_a_generator(per_unit, cell, kind):
    """A solver cell's time of evaluation is learned, and stays on the device."""
    student = student_on("virt", kind, cell=cell, cells=2**6)
    per_step, whole = per_unit(lambda n: student.sample(3, n))
    assert per_step <= 0
    assert whole <= 8
    per_step, _ = per_unit(lambda n: student.sample(3, n), 16, 48)
    assert per_step <= 1 / 16  # looks for infinities


@pytest.mark.parametrize("eta", [0.5, 1.0])
@pytest.mark.parametrize("kind", [None, "coordinates", "dct"])
@pytest.mark.usefixtures("diffusers")
def test_a_step_of_the_scheduler(per_unit, tmp_path, kind, eta):
    """Its timesteps are known by their places."""
    file = None
    if kind is not None:
        file = str(tmp_path / "reference.safetensors")
        GaussianReference.fit(0.5 * randn(30, 1, 8, 8, generator=Generator().manual_seed(0)), kind).save(file)

    def compute(steps):
        scheduler = images.PathAverageScheduler(eta=eta, reference_file=file)
        scheduler.set_timesteps(steps, device="virt")
        x, generator = zeros(2, 1, 8, 8, device="virt"), Generator("cpu").manual_seed(0)
        for t in scheduler.timesteps:
            x = scheduler.step((0.1 * x).tanh(), t, x, generator=generator).prev_sample

    per_step, whole = per_unit(compute)
    assert per_step == 0
    assert whole <= 12


@pytest.mark.usefixtures("diffusers")
def test_a_timestep_from_elsewhere(per_unit):
    """A copy of it is read."""

    def compute(steps):
        scheduler = images.PathAverageScheduler(eta=0.0)
        scheduler.set_timesteps(steps, device="virt")
        x = zeros(2, 1, 8, 8, device="virt")
        for t in scheduler.timesteps:
            x = scheduler.step((0.1 * x).tanh(), t.clone(), x).prev_sample

    assert per_unit(compute)[0] == 1


def test_an_iteration_of_a_teacher(per_unit, tmp_path):
    def compute(iterations):
        manual_seed(0)
        network, options = MLP(2, width=8, blocks=1).to("virt"), TrainingOptions(iterations=iterations, warmup=1)
        train_teacher(network, DATA.to("virt"), tmp_path / str(iterations), options, batch=8, progress=False)

    assert per_unit(compute, 2, 4)[0] <= 1


@pytest.mark.parametrize(
    "name", ["local", "a scalar reference", "kept rollouts", "fresh rollouts", "window", "plain", "recomputed", "both"]
)
def test_an_iteration_of_a_distillation(per_unit, tmp_path, name):
    """The loss and the gradient's norm are read together, and once before it whether the teacher's paths are finite.

    What an iteration draws is read at the first one.
    """

    def compute(iterations):
        distilled("virt", tmp_path / str(iterations), name, iterations=iterations, steps=(4, 4), checkpoint_every=100)

    assert per_unit(compute, 2, 4)[0] <= (1 if name == "kept rollouts" else 2)


@pytest.mark.parametrize("kind", ["scalar", "coordinates"])
def test_a_fine_step_of_a_floor(per_unit, kind):
    """Only looks for infinities, every sixteen steps along both paths."""

    def compute(steps):
        options = {"steps": 2, "depth": 2, "groups": 6, "teacher_options": TeacherOptions(steps=steps, cells=4)}
        information_floor(teacher_on("virt"), space_on("virt", kind), **options)

    per_step, whole = per_unit(compute, 8, 24)
    assert per_step <= 1 / 8
    assert whole <= 20


@pytest.mark.parametrize("kind", ["scalar", "coordinates"])
def test_a_step_of_the_choice_of_a_grid(per_unit, kind):
    """Reads sums of 64 paths, at the end of all their solutions."""
    teacher, options = teacher_on("virt"), {"paths": 8, "progress": False}

    def cells(n):
        choose_grid(teacher, space_on("virt", kind), cells=n, fine_per_cell=4, **options)

    def fine(n):
        choose_grid(teacher, space_on("virt", kind), cells=3, fine_per_cell=n, **options)

    per_cell, whole = per_unit(cells, 3, 5)
    assert per_cell <= 2
    assert whole <= 12
    assert per_unit(fine, 16, 48)[0] <= 3 / 8  # of two cells, once for all and once for each of them
