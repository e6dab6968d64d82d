"""Students of image teachers: what a step of theirs keeps in memory, and changes of low rank of a teacher's weights."""

import pytest
import torch
from images_tiny import TINY, normal, path_average_samples, seeded, tiny_unet

from sdesig.images import DiffusersDenoiser, DiffusersUNet
from sdesig.images.song_unet import SongUNet
from sdesig.sampling import GaussianReference, PathSpace, SNRDenoiser
from sdesig.sigdeg import NetworkDenoiser, SigDEG, UNet
from sdesig.sigdeg.cells import CONDITIONS
from sdesig.testing import saved_bytes

SNR = (0.02, 200.0)


def diffusers_denoiser(unet):
    diffusers = pytest.importorskip("diffusers")
    return DiffusersDenoiser(DiffusersUNet(unet), {**diffusers.DDPMScheduler().config, "_class_name": "DDPMScheduler"})


def song(size, **changes):
    torch.manual_seed(0)
    config = {"width": 8, "multipliers": (1, 2), "blocks": 1, "attention": (size // 2,), **changes}
    return NetworkDenoiser(seeded(SongUNet(1, size, **config)), 0.5)


def our_unet(size, **changes):
    torch.manual_seed(0)
    return NetworkDenoiser(seeded(UNet(1, size, **changes)), 0.5)


def student_of(teacher, depth=4, kind="dct", **options):
    data = 0.4 * normal(40, *teacher.event, seed=9)
    space = PathSpace(teacher.event, SNR, GaussianReference.fit(data, kind), cells=2**6, depth=4)
    return SigDEG.from_teacher(teacher, space, depth=depth, **options)


def step_loss(student, rows):
    """The loss of one step of a student, as a function; the path is drawn before."""
    student.cell.set_trainable()
    sde, path = student.sde, student.space.paths(rows)
    times = path.grid(5)[:2]
    u = sde.start(path.initial_noise(), times[0])
    noise = tuple(values[0] for values in student.cell.noise("additive", path.partial_signatures(times)))
    target = normal(*u.shape)

    def loss():
        memory = student.cell.start(sde, times[0], u)
        return (student.cell.advance(sde, times[0], times[1], u, memory, noise)[0] - target).square().mean()

    return loss


# --- memory ----------------------------------------------------------------------------------------------------------


def denoising_loss(teacher, rows):
    """That with which the teacher was trained, as a function."""
    clean, noise = normal(rows, *teacher.event), normal(rows, *teacher.event, seed=2)
    snr = torch.linspace(0.1, 10.0, rows)
    tau = snr.reshape(-1, 1, 1, 1)
    return lambda: (tau * (teacher(tau * clean + tau.sqrt() * noise, snr) - clean).square()).mean()


SIZE, ROWS = 28, 64
LARGE = {
    "diffusers": lambda: diffusers_denoiser({**TINY, "sample_size": SIZE, "attention_head_dim": 16}),
    "ours": lambda: our_unet(SIZE, widths=(16, 32)),
    "ours, in patches": lambda: our_unet(SIZE, widths=(64, 128), patch=2),
    "DDPM++": lambda: song(SIZE, width=16),
}


@pytest.mark.parametrize("kind, rank", [*((kind, None) for kind in LARGE), ("ours, in patches", 4)])
def test_a_step_of_a_student_keeps_hardly_more_than_its_teachers_training(kind, rank):
    """At most 1.15 times as many bytes, with four coefficients of the path as inputs. Most of the difference, 1 to 4 %
    here, is these inputs and the tensors of the step's arithmetic, of the size of an image each."""
    teacher = LARGE[kind]().train()
    usual = saved_bytes(denoising_loss(teacher, ROWS))
    assert usual > 20 * 2**20
    found = saved_bytes(step_loss(student_of(teacher, rank=rank).train(), ROWS))
    assert usual < found < 1.15 * usual


def test_saved_bytes_counts_what_is_kept_once():
    x, w = torch.ones(10, requires_grad=True), torch.ones(10, requires_grad=True)
    assert saved_bytes(lambda: (x * w).sum()) == 80
    assert saved_bytes(lambda: (x * x).sum()) == 40
    assert saved_bytes(lambda: (x + w).sum()) == 0
    assert saved_bytes(lambda: (x[:5] * x[5:]).sum()) == 40
    assert saved_bytes(lambda: x.sin().exp().sum()) == 80


# --- low rank --------------------------------------------------------------------------------------------------------


RANK = 2
SMALL = {
    "diffusers": lambda: diffusers_denoiser(tiny_unet()),
    "ours": lambda: our_unet(8, widths=(16, 32)),
    "DDPM++": lambda: song(8, width=16),
}
every_teacher = pytest.mark.parametrize("kind", SMALL)


def trained(student, steps=1):
    """After some steps of an optimizer on what is learned of it."""
    loss = step_loss(student, 4)
    optimizer = torch.optim.Adam([p for p in student.parameters() if p.requires_grad], 0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    return student


@every_teacher
def test_it_starts_as_the_teachers_solver(kind):
    teacher = SMALL[kind]()
    student = student_of(teacher, rank=RANK)
    expected = path_average_samples(teacher, student, 3, 5)
    found = student.sample(3, 5).values
    assert (found - expected).norm() < 1e-4 * expected.norm()
    assert (trained(student).sample(3, 5).values - expected).norm() > 1e-3 * expected.norm()


@every_teacher
@pytest.mark.parametrize("depth", [1, 4])
def test_the_number_of_parameters_is_that_of_the_factors(kind, depth):
    """rank (rows + columns) of a matrix where that is less than half of it; all of what is smaller."""
    teacher = SMALL[kind]()
    student = student_of(teacher, depth, rank=RANK)
    student.cell.set_trainable()
    counts, factored = 0, 0
    for name, p in teacher.network.widened(CONDITIONS, depth + 1).named_parameters():
        rows, columns = len(p), p.numel() // len(p)
        small = RANK * (rows + columns)
        if p.ndim > 1 and small < p.numel() / 2:
            counts, factored = counts + small, factored + 1
        else:
            counts += p.numel()
            assert p.numel() < 2000, name
    assert factored > 5
    found = sum(p.numel() for p in student.cell.denoiser.parameters() if p.requires_grad)
    assert found == counts
    whole = student_of(teacher, depth)
    whole.cell.set_trainable()
    assert found < 0.5 * sum(p.numel() for p in whole.cell.denoiser.parameters() if p.requires_grad)


@every_teacher
def test_the_changes_have_the_rank(kind):
    """And the teacher's weights stay what they were."""
    student = student_of(SMALL[kind](), rank=RANK)
    before = [p.clone() for p in student.cell.denoiser.base.parameters()]
    denoiser = trained(student, 3).cell.denoiser
    assert all(torch.equal(p, value) for p, value in zip(denoiser.base.parameters(), before, strict=True))
    assert denoiser.factors
    for k, right in denoiser.factors.items():
        left = denoiser.change[int(k)]
        assert torch.linalg.matrix_rank(left @ right) == RANK
        assert (left @ right).numel() == before[int(k)].numel()


@every_teacher
def test_gradients_reach_both_factors_after_one_step(kind):
    """At first only the left one, which is zero."""
    student = student_of(SMALL[kind](), rank=RANK)
    loss = step_loss(student, 4)
    denoiser = student.cell.denoiser
    loss().backward()
    for k, right in denoiser.factors.items():
        assert (denoiser.change[int(k)] == 0).all()
        assert (denoiser.change[int(k)].grad != 0).any()
        assert (right.grad == 0).all()
    student.zero_grad()
    trained(student)
    loss().backward()
    for k, right in denoiser.factors.items():
        assert (denoiser.change[int(k)].grad != 0).any()
        assert (right.grad != 0).any()
    learned = {name for name, p in student.named_parameters() if p.requires_grad}
    assert all(p.grad is None for name, p in student.named_parameters() if name not in learned)


@every_teacher
def test_it_is_saved_to_the_bit(kind, tmp_path):
    student = trained(student_of(SMALL[kind](), rank=RANK)).eval()
    student.save(tmp_path)
    loaded = SigDEG.load(tmp_path)
    assert loaded.cell.denoiser.rank == RANK
    assert loaded.state_dict().keys() == student.state_dict().keys()
    assert all(torch.equal(value, student.state_dict()[name]) for name, value in loaded.state_dict().items())
    assert torch.equal(loaded.sample(3, 4).values, student.sample(3, 4).values)


@pytest.mark.parametrize(
    "options, error, match",
    [
        ({"cell": "plain", "rank": 2}, ValueError, "rank must be None unless a solver cell changes a teacher's own"),
        ({"rank": 0}, ValueError, "rank must be >= 1; got 0"),
        ({"rank": 2.0}, TypeError, "rank must be an integer; got 2.0"),
        ({"rank": 2, "network": UNet(1, 8, conditions=2, extra=6)}, ValueError, "rank must be None unless"),
    ],
)
def test_refusals(options, error, match):
    with pytest.raises(error, match=match):
        student_of(our_unet(8), **options)


def test_a_denoiser_that_is_none_of_our_networks_has_no_rank():
    with pytest.raises(ValueError, match=r"rank must be None unless a solver cell changes .*; got 2"):
        SigDEG.from_teacher(
            SNRDenoiser(lambda y, snr: y / (1 + snr)),
            PathSpace((1, 8, 8), SNR, GaussianReference(0.0, 0.5), depth=4),
            depth=2,
            rank=2,
        )
