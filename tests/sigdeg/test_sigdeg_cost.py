"""What a distillation costs: evaluations as they are counted, and times by a clock that counts them."""

import copy
import math

import pytest
import torch

from sdesig.sampling import GaussianReference, PathSpace, SNRDenoiser, TeacherOptions
from sdesig.sde import Mixture
from sdesig.sigdeg import MLP, DistillOptions, SigDEG, TrainingOptions, distill
from sdesig.sigdeg.cost import network_evaluations, steps_law, time_distillation

LAW = Mixture.circle(1.5, 0.1, dtype=torch.float32)


class Counted:
    """A teacher that counts its evaluations, those for the student's corrections too."""

    def __init__(self):
        self.evaluations = 0
        self.denoiser = SNRDenoiser(self.denoise)

    def __deepcopy__(self, _):
        return self

    def denoise(self, y, snr):
        self.evaluations += len(y)
        return LAW.denoise_y(y, snr)


def make(teacher):
    torch.manual_seed(0)
    space = PathSpace((2,), (math.exp(-3), math.exp(5)), GaussianReference(0.0, 1.0), 2**6, 2)
    network = MLP(2, width=8, blocks=1, conditions=2, extra=4)
    return SigDEG.from_teacher(teacher, space, depth=2, network=network, sigma_data=1.0)


def options(**changes):
    training = TrainingOptions(iterations=changes.pop("iterations", 10), parts=changes.pop("parts", 1))
    changes = {"steps": (4, 4), "evaluations": 160, "teacher_options": TeacherOptions(steps=16, cells=8)} | changes
    return DistillOptions(**changes, training=training)


DATA = LAW.sample(100, torch.Generator().manual_seed(1))
CASES = {
    "local": {"pairs": "local"},
    "parts": {"pairs": "local", "parts": 2},
    "drawn anew": {"pairs": "rollout", "paths": 0},
    "kept": {"pairs": "rollout", "paths": 512},
}


@pytest.mark.parametrize("changes", CASES.values(), ids=CASES)
def test_evaluations_are_those_of_a_distillation(changes, tmp_path):
    """But for a first step, which asks no teacher for its memory: at most an eighth of a local iteration less here."""
    teacher, chosen = Counted(), options(**changes)
    distill(make(teacher.denoiser), teacher.denoiser, tmp_path, chosen, data=DATA, progress=False)
    wanted = network_evaluations(chosen)
    assert 7 / 8 * wanted <= teacher.evaluations <= wanted
    if chosen.pairs == "rollout":
        assert teacher.evaluations == wanted


def test_the_law_of_the_steps_is_log_uniform():
    law = steps_law((4, 32))
    assert [*law] == list(range(4, 33))
    assert sum(law.values()) == pytest.approx(1.0)
    assert sum(law[n] for n in range(4, 8)) == pytest.approx(math.log(2) / math.log(33 / 4))


def test_both_kinds_of_pairs_are_weighed():
    local, kept, both = (
        network_evaluations(options(pairs=pairs, paths=512, local_share=0.3)) for pairs in ("local", "rollout", "both")
    )
    drawing = 512 * 16
    assert both == pytest.approx(0.3 * local + 0.7 * (kept - drawing) + drawing)


@pytest.mark.parametrize("changes", CASES.values(), ids=CASES)
def test_seconds_by_a_clock_that_counts_evaluations(changes, monkeypatch, tmp_path):
    """A second each: an iteration has as many as `network_evaluations`, but for memories of first steps."""
    teacher, chosen = Counted(), options(**changes)
    monkeypatch.setattr("sdesig.sigdeg.cost.time.perf_counter", lambda: float(teacher.evaluations))
    student = make(teacher.denoiser)
    before, state = copy.deepcopy(student.state_dict()), torch.get_rng_state()
    monkeypatch.chdir(tmp_path)
    found = time_distillation(student, teacher.denoiser, chosen, DATA)
    kept = 16 * chosen.paths if changes["pairs"] == "rollout" else 0
    wanted = (network_evaluations(chosen) - kept) / chosen.training.iterations
    assert 7 / 8 * wanted <= found.iteration <= wanted
    assert found.paths == kept
    assert found.measuring == teacher.evaluations
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())
    assert all(value.grad is None for value in student.parameters())
    assert not [*tmp_path.iterdir()]


def test_many_steps_and_few_are_timed(monkeypatch):
    """Of 4 to 32 the quantiles 1/6, 1/2 and 5/6."""
    seen = []
    monkeypatch.setattr(
        "sdesig.sigdeg.cost.local_errors", lambda *arguments, **_: seen.append(arguments[3]) or weight(arguments[0])
    )

    def weight(student):
        return sum(value.square().sum() for value in student.parameters() if value.requires_grad)[None]

    teacher = Counted()
    time_distillation(
        make(teacher.denoiser), teacher.denoiser, options(steps=(4, 32), teacher_options=TeacherOptions()), DATA
    )
    assert seen == [11, 5, 11, 23]
