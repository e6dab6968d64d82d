"""How often a host waits for a device, as counts: per step of a solver, per iteration of a training.

The bounds are what is needed now; a change that waits more often is to be seen here.
"""

import pytest
from test_devices_distillation import DATA, distilled, space_on, student_on, teacher_on
from test_devices_solvers import reverse, solved
from torch import manual_seed

from sdesig.sampling import TeacherOptions, information_floor
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


@pytest.fixture
def per_unit(counted):
    """Waits of a computation per unit, from the difference of two numbers of units; and those of the fewer ones."""

    def measure(compute, fewer=4, more=8):
        numbers = []
        for n in (fewer, more):
            with counted() as count:
                compute(n)
            numbers.append(count.total)
        return (numbers[1] - numbers[0]) / (more - fewer), numbers[0]

    return measure


@pytest.mark.parametrize("scheme, problem", SCHEMES)
def test_a_step_of_a_scheme(per_unit, scheme, problem):
    per_step, whole = per_unit(lambda n: solved("virt", problem, scheme, n, area=False))
    assert per_step == 0
    assert whole <= 10


@pytest.mark.parametrize("scheme", ["path_average", "dpm_solver_1", "dpm_solver_2m"])
@pytest.mark.parametrize("kind", ["scalar", "coordinates", "pca"])
def test_a_step_of_a_reverse_scheme(per_unit, scheme, kind):
    """With a clock for every coordinate the path waits once per level of its cells."""
    per_step, whole = per_unit(lambda n: reverse("virt", scheme, kind, 1.0, steps=n))
    assert per_step <= (0 if kind == "scalar" else 0.25)
    assert whole <= 20


@pytest.mark.parametrize("cell, most", [("solver", 1), ("plain", 0)])
@pytest.mark.parametrize("kind", ["scalar", "coordinates"])
def test_a_step_of_a_generator(per_unit, cell, most, kind):
    """A solver cell's time of evaluation is learned, and so comes from the device."""
    student = student_on("virt", kind, cell=cell)
    per_step, whole = per_unit(lambda n: student.sample(3, n))
    assert per_step <= most + (0 if kind == "scalar" else 0.5)
    assert whole <= 32


def test_an_iteration_of_a_teacher(per_unit, tmp_path):
    def compute(iterations):
        manual_seed(0)
        network, options = MLP(2, width=8, blocks=1).to("virt"), TrainingOptions(iterations=iterations, warmup=1)
        train_teacher(network, DATA.to("virt"), tmp_path / str(iterations), options, batch=8, progress=False)

    assert per_unit(compute, 2, 4)[0] <= 5


@pytest.mark.parametrize("name, most", [("local", 67), ("fresh rollouts", 42), ("kept rollouts", 38), ("plain", 35)])
def test_an_iteration_of_a_distillation(per_unit, tmp_path, name, most):
    """Of four steps, which local pairs draw one by one. Half of the waits of a solver cell are in the backward pass: a
    gradient with respect to a time goes back to the CPU."""

    def compute(iterations):
        distilled("virt", tmp_path / str(iterations), name, iterations=iterations, steps=(4, 4), checkpoint_every=100)

    assert per_unit(compute, 2, 4)[0] <= most


def test_a_fine_step_of_a_floor(per_unit):
    """Only looks for infinities, every sixteen steps along both paths."""

    def compute(steps):
        options = {"steps": 2, "depth": 2, "groups": 6, "teacher_options": TeacherOptions(steps=steps, cells=4)}
        information_floor(teacher_on("virt"), space_on("virt"), **options)

    per_step, whole = per_unit(compute, 8, 24)
    assert per_step <= 1 / 8
    assert whole <= 20
