"""Distillation: losses by hand, what is trained and what is not, and students that come nearer to the teacher."""

import json
import math
import sys
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from itertools import pairwise

import pytest
import torch
from shaken_students import shaken

from sdesig.sampling import (
    CanonicalDenoiser,
    CanonicalSDE,
    GaussianReference,
    PathSpace,
    SNRDenoiser,
    StepGrid,
    TeacherOptions,
    draw_paths,
)
from sdesig.sampling.teacher_paths import snr_times
from sdesig.sde import EDM, Mixture
from sdesig.sigdeg import MLP, DistillOptions, NetworkDenoiser, SigDEG, TrainingOptions, UNet, distill
from sdesig.sigdeg.cells import SolverCell
from sdesig.sigdeg.distillation import local_errors, local_loss, rollout_loss
from sdesig.solvers.driver import run_steps
from sdesig.testing import saved_bytes

LOW, HIGH = math.exp(-3), math.exp(5)
LAW = Mixture.circle(1.5, 0.1, dtype=torch.float32)
TEACHER = SNRDenoiser(LAW.denoise_y)
SCALAR = GaussianReference(LAW.mean(), LAW.covariance()[0, 0].item())
TURN = torch.tensor([[0.6, -0.8], [0.8, 0.6]])
PCA = GaussianReference(torch.tensor([0.2, -0.1]), torch.tensor([0.3, 0.9]), TURN)
REFERENCES = {"none": GaussianReference(0.0, 0.0), "scalar": SCALAR, "pca": PCA}
every_reference = pytest.mark.parametrize("reference", REFERENCES.values(), ids=REFERENCES.keys())
every_cell = pytest.mark.parametrize("cell", ["solver", "plain"])


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def network_teacher():
    torch.manual_seed(2)
    return NetworkDenoiser(MLP(2, width=16, blocks=1), 1.0)


def space_of(reference=SCALAR, event=(2,), snr=(LOW, HIGH), cells=2**6, depth=2, **more):
    return PathSpace(event, snr, reference, cells, depth, **more)


def make(cell="solver", teacher=TEACHER, reference=SCALAR, *, depth=2, sigma_data=1.0, **more):
    torch.manual_seed(0)
    network = None
    if cell == "plain" or not isinstance(teacher, NetworkDenoiser):
        network = MLP(2, width=32, blocks=1, conditions=2, extra=depth + (1 if cell == "plain" else 2))
    space = space_of(reference, depth=max(2, depth), **more)
    return SigDEG.from_teacher(teacher, space, depth=depth, cell=cell, network=network, sigma_data=sigma_data)


def sde_of(student, teacher=TEACHER):
    return CanonicalSDE(teacher, reference=student.space.reference)


def paths_of(student, *, rows=20, steps=64, cells=16, scheme="path_average", seed=99):
    options = TeacherOptions(scheme, steps, cells)
    return draw_paths(TEACHER, student.space, options, rows, generator=seeded(seed))


def data(n=2000):
    return LAW.sample(n, seeded(1))


def options(**changes):
    training = {"iterations": 60, "learning_rate": 1e-2, "warmup": 5, "ema": 0.9}
    training |= {name: changes.pop(name) for name in list(changes) if name in TrainingOptions.__dataclass_fields__}
    changes = {
        "pairs": "rollout",
        "steps": (3, 5),
        "evaluations": 800,
        "paths": 512,
        "teacher_options": TeacherOptions(steps=32, cells=8),
    } | changes
    return DistillOptions(**changes, training=TrainingOptions(**training))


def train_on(student, out, *, teacher=TEACHER, **changes):
    given = changes.pop("data", data())
    return distill(student, teacher, out, options(**changes), data=given, progress=False)


# --- losses ----------------------------------------------------------------------------------------------------------


@every_reference
@every_cell
def test_the_rollout_loss_is_the_mean_square_of_x(cell, reference):
    """The student's own solution along the paths, x = y/tau at all times but the first."""
    student = shaken(make(cell, reference=reference))
    sde, paths = sde_of(student), paths_of(student).coarse(5)
    with torch.no_grad():
        found = rollout_loss(student, sde, paths)
        states = run_steps(student.cell, sde, "additive", paths.states[0], paths.times, [paths.signature])
        squares = [
            (sde.noisy_data(states[k], paths.times[k]) - sde.noisy_data(paths.states[k], paths.times[k]))
            .square()
            .mean()
            for k in range(1, 6)
        ]
    torch.testing.assert_close(found, torch.stack(squares).mean(), rtol=1e-4, atol=0)
    assert found > 1e-4


def gradients_of(student, loss):
    student.zero_grad()
    loss.backward()
    return torch.cat([p.grad.flatten() for p in student.parameters() if p.grad is not None])


@every_cell
def test_a_window_of_a_rollout_is_its_part(cell):
    """Its errors are those of the whole, its gradients those of the student started anew in the middle."""
    student = shaken(make(cell))
    student.cell.set_trainable()
    sde, paths = sde_of(student), paths_of(student).coarse(6)
    with torch.no_grad():
        whole = [rollout_loss(student, sde, paths, first=k, window=1) for k in range(6)]
        torch.testing.assert_close(torch.stack(whole).mean(), rollout_loss(student, sde, paths))
    window = rollout_loss(student, sde, paths, first=2, window=3)
    torch.testing.assert_close(window, torch.stack(whole[2:5]).mean())
    found = gradients_of(student, window)
    states, memory = paths.states[0], student.cell.start(sde, paths.times[0], paths.states[0])
    noises = list(student.cell.noise_by_step("additive", paths.signature))
    errors = []
    for k in range(5):
        states, memory = student.cell.advance(sde, paths.times[k], paths.times[k + 1], states, memory, noises[k])
        if k == 1:
            states = states.detach()
            memory = memory.detach() if cell == "plain" else tuple(value.detach() for value in memory)
        if k >= 2:
            x, wanted = (sde.noisy_data(u, paths.times[k + 1]) for u in (states, paths.states[k + 1]))
            errors.append((x - wanted).square().mean())
    torch.testing.assert_close(found, gradients_of(student, torch.stack(errors).mean()), rtol=1e-3, atol=1e-6)
    assert (found - gradients_of(student, rollout_loss(student, sde, paths))).abs().max() > 1e-4


@every_cell
@pytest.mark.parametrize("kind", ["rollout", "local"])
def test_steps_that_are_computed_again_have_the_same_gradients(cell, kind):
    student = shaken(make(cell))
    student.cell.set_trainable()
    sde, paths = sde_of(student), paths_of(student).coarse(6)
    teacher = TeacherOptions(steps=32, cells=8)

    def loss(recompute):
        if kind == "rollout":
            return rollout_loss(student, sde, paths, recompute=recompute)
        return local_errors(student, sde, data(), 6, 20, teacher, seeded(), recompute=recompute).mean()

    torch.testing.assert_close(gradients_of(student, loss(True)), gradients_of(student, loss(False)))
    assert saved_bytes(lambda: loss(True)) < 0.2 * saved_bytes(lambda: loss(False))


def test_a_window_keeps_less_for_the_backward_pass():
    student = shaken(make())
    student.cell.set_trainable()
    sde, paths = sde_of(student), paths_of(student).coarse(8)
    whole = saved_bytes(lambda: rollout_loss(student, sde, paths))
    assert saved_bytes(lambda: rollout_loss(student, sde, paths, first=3, window=2)) < 0.5 * whole


@pytest.mark.parametrize("changes", [{"window": 2}, {"recompute": True}])
def test_windows_and_recomputed_steps_train(changes, tmp_path):
    student = make()
    before = rollout_loss(student, sde_of(student), paths_of(student).coarse(4)).item()
    trained = train_on(student, tmp_path, paths=0, **changes)
    assert rollout_loss(trained, sde_of(trained), paths_of(trained).coarse(4)).item() < before


@every_reference
def test_a_student_is_its_teacher_where_both_take_the_same_steps(reference):
    """Untrained, without the correction, which teachers lack, against path-average on the coarse steps themselves;
    against another scheme it is not.
    """
    student = make(reference=reference)
    student.cell.coefficients.corrected.zero_()
    same = paths_of(student, steps=8, cells=8)
    other = paths_of(student, steps=8, cells=8, scheme="euler")
    with torch.no_grad():
        assert rollout_loss(student, sde_of(student), same) < 1e-9
        assert rollout_loss(student, sde_of(student), other) > 1e-3


@every_reference
def test_the_local_loss_of_one_step_is_that_of_a_rollout(reference):
    """Data of one point and one fine step from its marginal: an untrained student makes the same step, but for the
    correction, which teachers lack.
    """
    student = make(reference=reference)
    student.cell.coefficients.corrected.zero_()
    teacher = TeacherOptions(steps=1, cells=1)
    with torch.no_grad():
        found = local_errors(student, sde_of(student), data(), 1, 50, teacher, seeded())
        finer = local_errors(student, sde_of(student), data(), 1, 50, TeacherOptions(steps=16, cells=16), seeded())
    assert found < 1e-9
    assert finer > 1e-3


@every_cell
def test_a_local_step_starts_with_the_memory_of_the_step_before(cell, monkeypatch):
    """The first with none; step k with what the step from times[k - 1] would have left."""
    student = make(cell)
    starts, memories, moves = [], [], []
    kind = type(student.cell)
    kept = kind.start, kind.memory_at, kind.advance

    def start(self, sde, t, y):
        starts.append(float(t))
        return kept[0](self, sde, t, y)

    def memory_at(self, sde, before, start, u, generator):
        memories.append((float(before), float(start)))
        return kept[1](self, sde, before, start, u, generator)

    def advance(self, sde, start, end, u, memory, noise):
        moves.append((float(start), float(end), len(u), [m.requires_grad for m in _flat(memory)]))
        return kept[2](self, sde, start, end, u, memory, noise)

    for name, function in (("start", start), ("memory_at", memory_at), ("advance", advance)):
        monkeypatch.setattr(kind, name, function)
    teacher = TeacherOptions(steps=16, cells=8)
    local_errors(student, sde_of(student), data(), 3, 6, teacher, seeded()).mean().backward()
    times = snr_times(student.space.snr, student.space.grid, 3).tolist()
    assert starts == times[:1]
    assert sorted(memories) == list(pairwise(times[:-1]))
    assert sorted(m[:3] for m in moves) == [(a, b, 6) for a, b in pairwise(times)]
    assert not any(flag for m in moves for flag in m[3])


def _flat(memory):
    """A memory as a list of tensors."""
    return list(memory) if isinstance(memory, tuple) else [memory]


@pytest.mark.parametrize("cells", [8, 64])
def test_local_steps_have_the_times_of_a_sampler(cells, monkeypatch):
    """Whatever the cells of rollouts are, after a free step too; to the rounding of the paths' own cells."""
    grid = StepGrid.from_density([1.0, 2.0, 4.0], knots=16)
    for own in (StepGrid(), grid, replace(grid, free=0.3, fall=0.1)):
        student, seen = make(grid=own), set()
        kept = SolverCell.advance

        def advance(self, sde, start, end, *others, kept=kept, seen=seen):
            seen.update((math.log(start), math.log(end)))
            return kept(self, sde, start, end, *others)

        with monkeypatch.context() as patch:
            patch.setattr(SolverCell, "advance", advance)
            local_errors(student, sde_of(student), data(), 5, 2, TeacherOptions(steps=64, cells=cells), seeded())
        space = student.space
        found = torch.tensor(sorted(seen), dtype=torch.float64)
        width = math.log(space.snr[1] / space.snr[0]) / space.cells
        torch.testing.assert_close(found, space.times(5).log(), rtol=0, atol=1.01 * width)


def test_the_steps_of_a_local_iteration_count_by_their_relative_errors():
    """The parts of two steps in the gradient: half each, unless one errs by next to nothing; as they are when plain."""

    def parts(*errors, cell="solver"):
        values = torch.tensor(errors, requires_grad=True)
        (gradient,) = torch.autograd.grad(local_loss(values, make(cell)), values)
        return (gradient * values).tolist()

    assert parts(3e-2, 3e-2) == pytest.approx([0.5, 0.5])
    assert parts(4e-2, 1e-2) == pytest.approx([0.5, 0.5], abs=0.1)
    assert parts(4e-2, 4e-5) == pytest.approx([1, 0], abs=0.02)
    assert parts(4e-2, 1e-2, cell="plain") == pytest.approx([0.8, 0.2])
    for cell, wanted in (("solver", 2e-2), ("plain", 2.5e-2)):
        assert local_loss(torch.tensor([3e-2]), make(cell)).exp().item() == pytest.approx(3e-2)
        assert local_loss(torch.tensor([4e-2, 1e-2]), make(cell)).exp().item() == pytest.approx(wanted, rel=0.1)


def test_losses_are_functions_of_the_generator():
    student = shaken(make())
    losses = [
        local_errors(student, sde_of(student), data(), 3, 6, TeacherOptions(steps=8, cells=8), seeded(seed))
        .mean()
        .item()
        for seed in (0, 0, 1)
    ]
    assert losses[0] == losses[1] != losses[2]


# --- training ---------------------------------------------------------------------------------------------------------


def held_out(student, steps=4):
    """Root of the rollout loss on 500 other paths of a finer teacher."""
    with torch.no_grad():
        return rollout_loss(student, sde_of(student), paths_of(student, rows=500).coarse(steps)).sqrt().item()


@pytest.mark.parametrize("pairs", ["rollout", "local", "both"])
@pytest.mark.parametrize("cell, share", [("solver", 0.93), ("plain", 0.4)])
def test_a_trained_student_is_nearer_to_the_teacher(cell, share, pairs, tmp_path):
    """On paths it never saw. The solver cell starts near, and the information floor is not far below."""
    student = make(cell)
    before = held_out(student)
    trained = train_on(student, tmp_path, pairs=pairs, iterations=90)
    assert held_out(trained) < share * before
    assert not trained.training
    loaded = SigDEG.load(tmp_path / "student", denoiser=SNRDenoiser(LAW.denoise_y) if cell == "solver" else None)
    assert torch.equal(loaded.sample(5, 4).values, trained.sample(5, 4).values)
    recorded = json.loads((tmp_path / "options.json").read_text())
    assert recorded["distillation"]["pairs"] == pairs
    assert (tmp_path / "paths").exists() == (pairs != "local")


@pytest.mark.parametrize("pairs", ["local", "rollout"])
def test_a_student_that_is_its_teacher_has_nothing_to_learn(pairs, tmp_path):
    """A plain cell is Euler's scheme until it is trained: the logarithm of its error, zero, must not be taken."""
    teacher = network_teacher()
    student = SigDEG.from_teacher(teacher, space_of(), depth=1, cell="plain")
    before = student.sample(5, 4).values
    same = TeacherOptions(scheme="euler", steps=4, cells=4)
    same_steps = options(pairs=pairs, steps=(4, 4), paths=0, iterations=3, teacher_options=same)
    trained = distill(student, teacher, tmp_path, same_steps, data=data(), progress=False)
    torch.testing.assert_close(trained.sample(5, 4).values, before, rtol=1e-3, atol=1e-4)


def test_paths_that_are_drawn_anew(tmp_path):
    student = make("plain")
    before = held_out(student)
    assert held_out(train_on(student, tmp_path, paths=0, iterations=40, data=None)) < 0.6 * before
    assert not (tmp_path / "paths").exists()


def test_a_seed_of_the_training_gives_one_student(tmp_path):
    one, again = (train_on(make(), tmp_path / name, iterations=5) for name in ("one", "two"))
    for (name, first), second in zip(one.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(first, second), name


def test_a_distillation_that_was_stopped_goes_on_bit_exactly(tmp_path):
    """The teacher fails in the middle of local pairs, and again in that of rollouts with paths drawn anew."""

    class Failed(Exception):
        pass

    calls = []

    def fragile(limit):
        def teacher(y, snr):
            calls.append(1)
            if len(calls) > limit:
                raise Failed
            return LAW.denoise_y(y, snr)

        return SNRDenoiser(teacher)

    changes = {"pairs": "both", "paths": 0, "iterations": 10, "checkpoint_every": 2, "local_share": 0.5}
    whole = train_on(make(), tmp_path / "whole", **changes)
    stops = []
    for limit in (130, 220):
        calls.clear()
        teacher = fragile(limit)
        with pytest.raises(Failed):
            train_on(make(teacher=teacher), tmp_path / "parts", teacher=teacher, **changes)
        stops.append(len((tmp_path / "parts" / "stats.jsonl").read_text().splitlines()))
    assert 0 < stops[0] < stops[1] < 5, stops
    parts = train_on(make(), tmp_path / "parts", **changes)
    for (name, first), second in zip(whole.state_dict().items(), parts.state_dict().values(), strict=True):
        assert torch.equal(first, second), name


def shares(out):
    """The share of the untrained scheme's error by iteration."""
    found = map(json.loads, (out / "stats.jsonl").read_text().splitlines())
    return {line["iteration"]: line.get("error_share") for line in found}


@every_cell
@pytest.mark.parametrize("pairs", ["local", "rollout"])
def test_the_share_is_of_the_untrained_errors_on_the_same_pairs(cell, pairs, tmp_path, monkeypatch):
    """In the first iteration a solver cell is the untrained scheme; later both cells are nearer than that."""
    monkeypatch.setattr("sdesig.sigdeg.distillation.COMPARED", {"local": 1, "rollout": 1})
    monkeypatch.setattr("sdesig.sigdeg.training.COMPARISONS", 10)
    student = make(cell)
    before = held_out(student)
    trained = train_on(student, tmp_path, pairs=pairs, checkpoint_every=1)
    found = shares(tmp_path)
    if cell == "solver":
        assert found[1] == pytest.approx(1.0, abs=1e-3)
    assert found[60] < (0.9 if cell == "solver" else 1.0)  # a plain cell starts far behind
    if cell == "solver" and pairs == "rollout":  # the same errors, on other paths
        assert found[60] == pytest.approx(held_out(trained) / before, rel=0.5)


@pytest.mark.parametrize("pairs", ["local", "rollout"])
def test_comparisons_change_nothing_in_a_training(pairs, tmp_path, monkeypatch):
    found = []
    for name, every in (("none", 1000), ("all", 1)):
        monkeypatch.setattr("sdesig.sigdeg.distillation.COMPARED", {"local": every, "rollout": every})
        found.append(train_on(make(), tmp_path / name, pairs=pairs, iterations=5))
    assert shares(tmp_path / "none") == {5: None}
    for (name, first), second in zip(found[0].state_dict().items(), found[1].state_dict().values(), strict=True):
        assert torch.equal(first, second), name


@pytest.mark.parametrize("pairs", ["local", "rollout"])
def test_a_run_that_goes_on_compares_like_one_that_never_stopped(pairs, tmp_path, monkeypatch):
    """With the scheme, not with the student that it goes on with; and it says nothing before it knows again."""
    monkeypatch.setattr("sdesig.sigdeg.distillation.COMPARED", {"local": 3, "rollout": 3})
    monkeypatch.setattr("sdesig.sigdeg.training.COMPARISONS", 1)
    advance, calls = torch.optim.AdamW.step, []

    def stopping(*arguments):
        calls.append(None)
        if len(calls) == 38:
            raise KeyboardInterrupt
        return advance(*arguments)

    changes = {"pairs": pairs, "checkpoint_every": 1, "iterations": 40}
    train_on(make(), tmp_path / "once", **changes)
    with monkeypatch.context() as patch:
        patch.setattr("sdesig.sigdeg.training.CHECKPOINT_SECONDS", 0.0)
        patch.setattr(torch.optim.AdamW, "step", stopping)
        with pytest.raises(KeyboardInterrupt):
            train_on(make(), tmp_path / "twice", **changes)
    train_on(make(), tmp_path / "twice", **changes)
    one, two = shares(tmp_path / "once"), shares(tmp_path / "twice")
    assert [k for k in one if one[k] is None] == [1, 2]
    assert [k for k in two if two[k] is None] == [1, 2, 38]
    assert {**two, 38: one[38]} == one
    assert one[39] < 0.95


@pytest.mark.parametrize("teacher", [SNRDenoiser(LAW.denoise_y), network_teacher()], ids=["exact", "network"])
def test_the_coefficients_alone_can_be_trained(teacher, tmp_path):
    student = make(teacher=teacher)
    before = {name: value.clone() for name, value in student.state_dict().items()}
    trained = train_on(student, tmp_path, teacher=teacher, only_coefficients=True, iterations=10)
    moved = {name for name, value in trained.state_dict().items() if not torch.equal(value, before[name])}
    assert moved
    assert all(name.startswith("cell.coefficients.") for name in moved)
    assert {name for name in before if name.startswith("cell.coefficients.")} == moved


def test_coefficients_come_nearer_to_the_teacher_by_themselves(tmp_path):
    student = make()
    before = held_out(student)
    assert held_out(train_on(student, tmp_path, only_coefficients=True)) < 0.93 * before


@every_cell
def test_a_teacher_of_ours_is_left_as_it_is(cell, tmp_path):
    """The student of a network is a copy."""
    teacher = network_teacher()
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    student = make(cell, teacher)
    trained = train_on(student, tmp_path, teacher=teacher, iterations=5)
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert all(p.grad is None for p in teacher.parameters())
    for name, value in trained.state_dict().items():
        if ".base." in name or name in ("mean", "variance"):
            assert torch.equal(value, student.state_dict()[name]), name
    assert (trained.sample(5, 4).values - make(cell, teacher).sample(5, 4).values).abs().max() > 1e-5


def image_student(teacher):
    """In principal axes of the rows and columns."""
    reference = GaussianReference(torch.zeros(1, 4, 4), torch.linspace(0.1, 1.0, 4), [torch.eye(4)])
    return SigDEG.from_teacher(teacher, space_of(reference, (1, 4, 4), cells=2**4, depth=4), depth=2)


@pytest.mark.parametrize("pairs", ["rollout", "local"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_students_of_images_are_trained(precision, pairs, tmp_path):
    torch.manual_seed(0)
    teacher = NetworkDenoiser(UNet(1, 4, widths=(8,)), 1.0)
    student = image_student(teacher)
    chosen = options(
        pairs=pairs,
        paths=0,
        steps=(2, 3),
        evaluations=8,
        teacher_options=TeacherOptions(steps=4, cells=4),
        iterations=3,
        precision=precision,
    )
    images = torch.randn(20, 1, 4, 4, generator=seeded())
    before = student.sample(2, 2).values
    trained = distill(student, teacher, tmp_path, chosen, data=images, progress=False)
    assert all(value.dtype == torch.float32 and value.isfinite().all() for value in trained.state_dict().values())
    line = json.loads((tmp_path / "stats.jsonl").read_text().splitlines()[-1])
    assert line["iteration"] == 3
    assert math.isfinite(line["loss"])
    assert (trained.sample(2, 2).values - before).abs().max() > 1e-5


@every_reference
@every_cell
def test_half_precision_is_for_networks_alone(cell, reference, tmp_path, monkeypatch):
    """Of a teacher without a network, paths and targets are those of single precision."""
    seen = []
    kept = rollout_loss

    def recording(student, sde, paths, **options):
        seen.append(paths)
        return kept(student, sde, paths, **options)

    monkeypatch.setattr(sys.modules["sdesig.sigdeg.distillation"], "rollout_loss", recording)
    for precision in ("bfloat16", "float32"):
        student = make(cell, reference=reference)
        train_on(student, tmp_path / precision, paths=0, iterations=1, precision=precision)
    half, single = seen
    assert half.signature.dtype == torch.float32
    torch.testing.assert_close(half.signature.coefficients, single.signature.coefficients)
    torch.testing.assert_close(half.states, single.states)


@pytest.mark.parametrize("loss", [1.0, math.nan])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_precision_is_the_teachers_too_for_as_long_as_training_lasts(precision, loss, tmp_path, monkeypatch):
    """And both have their own again after it, or after a failure of it."""
    torch.manual_seed(0)
    teacher = NetworkDenoiser(UNet(1, 4, widths=(8,)), 1.0)
    student = image_student(teacher)
    seen = {"teacher": set(), "student": set()}
    kept = local_errors

    def watching(name, network):
        def watch(module, inputs, output):
            seen[name].add((torch.is_autocast_enabled("cpu"), output.dtype))

        network.first.register_forward_hook(watch)

    def multiplied(*arguments, **options):
        return loss * kept(*arguments, **options)

    monkeypatch.setattr(sys.modules["sdesig.sigdeg.distillation"], "local_errors", multiplied)
    watching("teacher", teacher.network)
    watching("student", student.cell.denoiser.network)
    chosen = options(pairs="local", steps=(2, 2), evaluations=8, iterations=1, precision=precision)
    with pytest.raises(FloatingPointError) if math.isnan(loss) else nullcontext():
        distill(student, teacher, tmp_path, chosen, data=torch.randn(20, 1, 4, 4, generator=seeded()), progress=False)
    computed = (precision == "bfloat16", torch.bfloat16 if precision == "bfloat16" else torch.float32)
    assert seen == {"teacher": {computed}, "student": {computed}}
    assert not teacher.network.mixed_precision
    assert not student.cell.denoiser.network.mixed_precision


def test_numbers_of_steps_are_drawn_between_the_bounds(tmp_path, monkeypatch):
    """All of them, the small ones oftener: log-uniform. And rows times steps stays near the evaluations."""
    seen = []
    kept = rollout_loss

    def recording(student, sde, paths, **options):
        if not options.get("untrained"):
            seen.append((len(paths.times) - 1, paths.states.shape[1]))
        return kept(student, sde, paths, **options)

    monkeypatch.setattr(sys.modules["sdesig.sigdeg.distillation"], "rollout_loss", recording)
    train_on(make(), tmp_path, steps=(1, 4), evaluations=24, iterations=60, paths=100)
    counts = [sum(steps == n for steps, _ in seen) for n in (1, 2, 3, 4)]
    assert sum(counts) == 60
    assert min(counts) > 0
    # 60 draws of P(1) = log 2/log 5 = .43 and P(4) = log(5/4)/log 5 = .14; seeded
    assert counts[0] > counts[3]
    assert all(rows == max(2, 24 // steps) for steps, rows in seen)


# --- refusals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call, error, match",
    [
        (
            lambda out: train_on(make(), out, pairs="local", data=None),
            ValueError,
            "data must be given for pairs 'local'",
        ),
        (lambda out: train_on(make(), out, pairs="both", data=None), ValueError, "data must be given for pairs 'both'"),
        (
            lambda out: train_on(make(), out, pairs="local", data=torch.zeros(5, 3)),
            ValueError,
            r"data must have shape \(n >= 2, \(2,\)\); got \(5, 3\)",
        ),
        (
            lambda out: train_on(make(), out, pairs="local", data=torch.full((5, 2), math.nan)),
            ValueError,
            "data must be finite",
        ),
        (
            lambda out: train_on(make(), out, pairs="local", data=torch.zeros(5, 2).double()),
            TypeError,
            "data must be float32; got torch.float64",
        ),
        (
            lambda out: train_on(make(), out, pairs="local", data=torch.zeros(5, 2).numpy()),
            TypeError,
            "data must be a float32 tensor or an ImageSet; got ndarray",
        ),
        (lambda out: train_on(None, out), TypeError, "student must be a SigDEG; got NoneType"),
        (lambda _: options(steps=4), TypeError, r"steps must be two integers, \(fewest, most\); got 4"),
        (lambda _: DistillOptions(training=None), TypeError, "training must be a TrainingOptions; got NoneType"),
        (
            lambda out: train_on(make("plain"), out, only_coefficients=True),
            ValueError,
            "only_coefficients must be False with a plain cell",
        ),
        (lambda _: options(steps=(0, 4)), ValueError, r"steps\[0\] must be >= 1; got 0"),
        (lambda _: options(steps=(4, 3)), ValueError, r"steps\[1\] must be in \[4, 8\]; got 3"),
        (lambda _: options(steps=(4, 9)), ValueError, r"steps\[1\] must be in \[4, 8\]; got 9"),
        (lambda _: options(evaluations=4), ValueError, r"evaluations must be in \[5, 1073741824\]; got 4"),
        (lambda _: options(pairs="global"), ValueError, "pairs must be one of 'local', 'rollout', 'both'"),
        (lambda _: options(local_share=1.5), ValueError, r"local_share must be in \[0, 1\]; got 1.5"),
        (lambda _: options(paths=-1), ValueError, r"paths must be in \[0, 1073741824\]; got -1"),
    ],
)
def test_refusals(call, error, match, tmp_path):
    with pytest.raises(error, match=match):
        call(tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "changes, match",
    [
        ({"pairs": "both"}, r"\(distillation.pairs: 'rollout', now 'both'\)"),
        ({"learning_rate": 0.1}, r"\(training.learning_rate: 0.01, now 0.1\)"),
    ],
)
def test_a_run_with_other_options_is_refused(changes, match, tmp_path):
    train_on(make(), tmp_path, iterations=2)
    with pytest.raises(ValueError, match=f"has a run with other options .*{match}"):
        train_on(make(), tmp_path, **({"iterations": 2} | changes))


def test_a_student_of_another_depth_is_refused(tmp_path):
    train_on(make(depth=1), tmp_path, iterations=2)
    with pytest.raises(ValueError, match=r"has a run with other options \(depth: 1, now 2\)"):
        train_on(make(depth=2), tmp_path, iterations=2)


def test_training_that_diverges_is_an_error(tmp_path):
    """The checkpoint before is kept."""
    student = make("plain")
    with torch.no_grad():
        student.cell.denoiser.network.final.bias.fill_(math.inf)
    with pytest.raises(FloatingPointError, match="at iteration 0; the last checkpoint"):
        train_on(student, tmp_path, iterations=3)


@pytest.mark.parametrize("pairs", ["local", "rollout"])
@pytest.mark.parametrize("window", [0, 2])
def test_a_teacher_that_is_not_finite_is_an_error(pairs, window, tmp_path):
    """And no fault of the learning rate."""
    teacher = SNRDenoiser(lambda y, snr: y * math.nan)
    with pytest.raises(FloatingPointError, match="the states of the teacher's paths are not finite"):
        train_on(make(), tmp_path, teacher=teacher, pairs=pairs, window=window, paths=0, iterations=1)


@pytest.mark.parametrize("changes", [{"pairs": "both", "paths": 0}, {"paths": 100, "window": 2}, {"parts": 2}])
def test_what_is_drawn_does_not_depend_on_how_far_ahead(changes, tmp_path, monkeypatch):
    runs = []
    for ahead in (64, 4, 1):
        monkeypatch.setattr("sdesig.sigdeg.distillation.AHEAD", ahead)
        trained = train_on(make(), tmp_path / str(ahead), **{"evaluations": 40, "iterations": 5} | changes)
        runs.append(torch.cat([value.flatten() for value in trained.state_dict().values()]))
    assert torch.equal(runs[0], runs[1])
    assert torch.equal(runs[0], runs[2])


# --- teachers in training mode ---------------------------------------------------------------------------------------


class Forgetful(torch.nn.Module):
    """The circle's denoiser D(x, sigma) where it is told to be evaluated, with dropout where it is not."""

    def __init__(self):
        super().__init__()
        self.dropout = torch.nn.Dropout(0.3)
        self.modes = []

    def forward(self, x, sigma):
        self.modes.append(self.training or self.dropout.training)
        return self.dropout(LAW.denoiser(EDM())(x, sigma))


def holders():
    """Modules in functions, methods and other things that are a denoiser."""
    module = Forgetful().train()
    default = lambda x, sigma, module=module: module(x, sigma)  # noqa: E731
    return {
        "module": (module, module),
        "method": (module, module.forward),
        "closure": (module, lambda x, sigma: module(x, sigma)),
        "default": (module, default),
        "partial": (module, partial(lambda module, x, sigma: module(x, sigma), module)),
    }


@pytest.mark.parametrize("kind", holders())
@pytest.mark.parametrize("pairs", ["local", "rollout"])
def test_a_teacher_is_in_evaluation_mode_while_it_is_used(kind, pairs, tmp_path):
    """Targets, paths and the student's correction are those of the teacher without dropout; it is given back as it was,
    one part in training mode and one not."""
    module, holder = holders()[kind]
    teacher = CanonicalDenoiser(holder, EDM())
    changes = {"iterations": 3, "pairs": pairs, "evaluations": 40, "paths": 16, "ema": 0.0}
    found = train_on(make(teacher=teacher), tmp_path / "training", teacher=teacher, **changes)
    assert module.modes
    assert not any(module.modes)
    assert module.training
    assert module.dropout.training
    evaluated = CanonicalDenoiser(Forgetful().eval(), EDM())
    expected = train_on(make(teacher=evaluated), tmp_path / "evaluation", teacher=evaluated, **changes)
    for one, other in zip(found.parameters(), expected.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_teacher_is_given_back_after_an_error(tmp_path):
    module = Forgetful().train()
    module.dropout.eval()

    def broken(x, sigma):
        module(x, sigma)
        raise RuntimeError

    with pytest.raises(RuntimeError):
        train_on(make(), tmp_path, teacher=CanonicalDenoiser(broken, EDM()), pairs="local", iterations=1)
    assert (module.training, module.dropout.training) == (True, False)
    assert not any(module.modes)


class DroppingMLP(MLP):
    """With dropout, and statistics, before its last layer."""

    def __init__(self, *arguments, **more):
        super().__init__(*arguments, **more)
        self.final = torch.nn.Sequential(torch.nn.BatchNorm1d(16), torch.nn.Dropout(0.3), self.final)


@every_cell
def test_only_the_copy_of_a_teacher_is_evaluated(cell, tmp_path):
    """The changes of a teacher's weights are learned without its dropout, and its statistics stay; a network of a plain
    cell is trained as any network is."""
    torch.manual_seed(2)
    teacher = NetworkDenoiser(DroppingMLP(2, width=16, blocks=1), 1.0).train()
    student = SigDEG.from_teacher(teacher, space_of(), depth=2, cell=cell)
    train_on(student, tmp_path, teacher=teacher, pairs="local", iterations=2)
    network = student.cell.denoiser.network
    assert network.training == (cell == "plain")
    assert network.final[0].num_batches_tracked == (0 if cell == "solver" else 2 * 3)
    assert teacher.network.final[0].num_batches_tracked == 0
    assert teacher.network.final[1].training


def test_recomputed_steps_have_the_same_dropout(tmp_path):
    """A plain cell with dropout: gradients of the steps that are computed again are those of the steps."""
    made = []
    for recompute in (False, True):
        torch.manual_seed(2)
        teacher = NetworkDenoiser(DroppingMLP(2, width=16, blocks=1), 1.0)
        student = SigDEG.from_teacher(teacher, space_of(), depth=2, cell="plain")
        folder = tmp_path / str(recompute)
        changes = {"iterations": 2, "evaluations": 40, "paths": 16, "recompute": recompute}
        made.append(train_on(student, folder, teacher=teacher, **changes))
    for one, other in zip(*(student.parameters() for student in made), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_a_distillation_is_prolonged(tmp_path):
    train_on(make(), tmp_path, iterations=2)
    train_on(make(), tmp_path, iterations=3)
    assert json.loads((tmp_path / "options.json").read_text())["training"]["iterations"] == 3


@pytest.mark.parametrize("pairs", ["rollout", "local"])
def test_data_in_small_units_are_learned_too(pairs, tmp_path):
    """Mean squares of 1e-16 are no rounding errors where the data are of size 1e-7."""
    unit = 2.0**-24
    law = Mixture(LAW.weights, unit * LAW.means, unit**2 * LAW.covariances)
    reference = GaussianReference(unit * SCALAR.mean, unit**2 * SCALAR.variance)
    snr = (LOW / unit**2, HIGH / unit**2)
    student = make(teacher=SNRDenoiser(law.denoise_y), reference=reference, snr=snr, sigma_data=unit)
    before = [value.clone() for value in student.parameters()]
    changes = {"pairs": pairs, "paths": 0, "iterations": 2, "warmup": 1, "data": unit * data(), "out": tmp_path}
    train_on(student, teacher=SNRDenoiser(law.denoise_y), **changes)
    assert any(not torch.equal(one, other) for one, other in zip(before, student.parameters(), strict=True))
