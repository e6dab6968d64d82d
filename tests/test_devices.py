"""What is given on a device stays on it: from a path to a generator that is distilled, stopped, resumed and evaluated.

The GPU's half runs where there is one; the CPU's says that the calls are right.
"""

import pytest
import torch

from sdesig import BrownianPath, sample_partial_signature, solve
from sdesig.distillation import (
    Comparison,
    DistillOptions,
    TeacherOptions,
    TrainingOptions,
    distill,
    evaluate,
    train,
    train_teacher,
)
from sdesig.distillation.reference import reference_on
from sdesig.distillation.statistics import paired_ratio
from sdesig.generator import MLP, SigDEG
from sdesig.sde import GaussianReference
from sdesig.sde.problems import GeometricBrownianMotion

NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
pytestmark = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=NO_GPU)])
DATA = torch.tensor([1.0, 0.5]) * torch.randn(200, 2, generator=torch.Generator().manual_seed(0)).sign()


def test_solvers_follow_a_path_of_the_device(device):
    sde = GeometricBrownianMotion()
    for source in ({"seeds": [0, 1]}, {"generator": torch.Generator(device).manual_seed(0)}):
        path = BrownianPath(0.0, 1.0, (2, sde.noise_dim), dtype=torch.float64, device=device, **source)
        y0 = sde.y0(2, dtype=torch.float64).to(device)
        assert solve(sde, y0, path.grid(4), scheme="milstein", path=path)[-1].device == y0.device


def test_steps_with_lengths_of_the_device(device):
    generator, h = torch.Generator(device).manual_seed(0), torch.tensor([[0.1], [0.2]], device=device)
    step = sample_partial_signature((2, 3), h, 2, generator=generator)
    assert step.increment.device == h.device


class Stopped(Exception):
    pass


def test_a_training_goes_on_where_it_was_stopped(device, tmp_path):
    """On a GPU to rounding: some of its sums have no order."""

    def trained(out, stop=None):
        torch.manual_seed(0)
        network = MLP(2, width=8, blocks=1).to(device)

        def loss(iteration, generator):
            if iteration == stop:
                raise Stopped
            x = torch.randn(16, 2, generator=generator, device=device)
            return (network(x, x[:, 0].abs()) - x.sin()).square().mean(), 16

        options = TrainingOptions(iterations=4, warmup=1, checkpoint_every=1)
        return train(network, loss, options, out, recorded={}, progress=False)

    with pytest.raises(Stopped):
        trained(tmp_path / "resumed", stop=2)
    pairs = zip(trained(tmp_path / "resumed").parameters(), trained(tmp_path / "whole").parameters(), strict=True)
    for resumed, whole in pairs:
        torch.testing.assert_close(resumed, whole, rtol=0, atol=0.0 if device == "cpu" else 1e-5)


@pytest.mark.parametrize("kind", ["scalar", "coordinates"])
def test_a_teacher_its_student_and_all_samplers(device, kind, tmp_path):
    """Data on the CPU; and the images of seeds are those of the CPU, to rounding."""
    options = TrainingOptions(iterations=2, warmup=1)
    network = MLP(2, width=8, blocks=1).to(device)
    teacher = train_teacher(network, DATA, tmp_path / "teacher", options, batch=8, progress=False)
    reference = reference_on(GaussianReference.fit(DATA, kind), device)
    student = SigDEG.from_teacher(teacher, event=(2,), snr=(0.02, 50.0), depth=2, reference=reference, levels=6)
    distilling = DistillOptions(
        steps=(2, 4), evaluations=16, teacher=TeacherOptions(steps=8, cells=4), training=options
    )
    generator = distill(student.to(device), teacher, distilling, tmp_path / "run", data=DATA, progress=False)
    comparison = Comparison(teacher, reference, (2,), (0.02, 50.0), 6, depth=generator.path_depth, truth_steps=64)
    made = evaluate(comparison, {"g": generator}, steps=[4], seeds=range(20), real=DATA, floor_groups=16)
    assert made.converged.device.type == device
    assert all(row["pathwise_rmse"] < 10 for row in made.rows if row["pathwise_rmse"] is not None)
    errors = [outcome.errors for outcome in made.outcomes if outcome.errors is not None]
    assert paired_ratio(errors[0], errors[0])[0] == 1.0
    on_cpu = SigDEG.load(tmp_path / "run" / "student", device="cpu").sample(range(20), 4).values
    torch.testing.assert_close(generator.sample(range(20), 4).values.cpu(), on_cpu, rtol=0, atol=1e-4)
