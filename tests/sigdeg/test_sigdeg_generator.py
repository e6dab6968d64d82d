"""The generator: one seed is one image, at all step counts the same path; files round trip, broken ones are refused."""

import copy
import json
import math
import subprocess
import sys
import weakref

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from shaken_students import shaken
from torch import nn

from sdesig.brownian import BrownianPath
from sdesig.convergence import fit_strong
from sdesig.sampling import CanonicalSDE, GaussianReference, PathSpace, SNRDenoiser, StepGrid
from sdesig.sde import Mixture
from sdesig.sigdeg import MLP, NetworkDenoiser, PlainCell, Samples, SigDEG, SolverCell, UNet
from sdesig.solvers import solve

LOW, HIGH = math.exp(-4), math.exp(4)
CIRCLE = Mixture.circle(1.0, 0.3, dtype=torch.float32)
SCALAR = GaussianReference(CIRCLE.mean(), CIRCLE.covariance()[0, 0].item())
NUMBERS = GaussianReference(0.0, 0.3)
TURN = torch.tensor([[0.6, -0.8], [0.8, 0.6]])
REFERENCES = {
    "none": GaussianReference(0.0, 0.0),
    "scalar": SCALAR,
    "pca": GaussianReference(torch.tensor([0.2, -0.1]), torch.tensor([0.3, 0.9]), TURN),
}
SKEWED = StepGrid.from_density(np.linspace(1.0, 3.0, 20), knots=8)


def network_teacher():
    torch.manual_seed(0)
    return NetworkDenoiser(MLP(2, width=16, blocks=1), 0.7)


def space_of(reference=SCALAR, event=(2,), snr=(LOW, HIGH), **more):
    return PathSpace(event, snr, reference, **more)


def make(teacher=None, *, cell="solver", reference="scalar", depth=2, seed=0, cells=2**7, space_depth=4, **place):
    """A generator for the plane with random weights; of a network, or one that corrects the circle's denoiser."""
    torch.manual_seed(seed)
    network = None
    if cell == "plain" or not isinstance(teacher, NetworkDenoiser):
        network = MLP(2, width=16, blocks=1, conditions=2, extra=depth + (1 if cell == "plain" else 2))
    teacher = SNRDenoiser(CIRCLE.denoise_y) if teacher is None else teacher
    space = space_of(REFERENCES[reference], cells=cells, depth=space_depth, **place)
    return SigDEG.from_teacher(teacher, space, depth=depth, cell=cell, network=network, sigma_data=0.7)


KINDS = {
    "solver, network": lambda **options: make(network_teacher(), **options),
    "solver, corrected": make,
    "plain": lambda **options: make(network_teacher(), cell="plain", **options),
}
every_kind = pytest.mark.parametrize("kind", KINDS)
every_reference = pytest.mark.parametrize("reference", REFERENCES)


def denoiser_of(kind):
    """What `SigDEG.load` must be given."""
    return SNRDenoiser(CIRCLE.denoise_y) if kind == "solver, corrected" else None


def close(x, y):
    torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-5)


# --- seeds -------------------------------------------------------------------------------------------------------


@every_kind
@every_reference
def test_an_image_is_a_function_of_its_seed(kind, reference):
    """Not of the batch size, nor of the order of rows, nor of the other seeds."""
    generator = shaken(KINDS[kind](reference=reference))
    seeds = [7, 3, 12, 2**40, 5]
    values = generator.sample(seeds, 6).values
    assert values.shape == (5, 2)
    assert torch.pdist(values).min() > 1e-4
    assert torch.equal(generator.sample(seeds, 6).values, values)
    for batch in (1, 2, 3):
        close(generator.sample(seeds, 6, batch=batch).values, values)
    close(generator.sample(seeds[::-1], 6).values.flip(0), values)
    close(generator.sample([12], 6).values, values[2:3])
    close(generator.sample(8, 6).values[[7, 3]], values[:2])


def test_an_image_of_a_unet_is_a_function_of_its_seed():
    torch.manual_seed(0)
    teacher = NetworkDenoiser(UNet(1, 4, widths=(8, 8)), 0.7)
    reference = GaussianReference(torch.zeros(1, 1, 1), 0.5)
    generator = shaken(SigDEG.from_teacher(teacher, space_of(reference, (1, 4, 4), cells=2**5), depth=2))
    values = generator.sample(6, 4).values
    close(generator.sample(6, 4, batch=2).values, values)
    close(generator.sample([4], 4).values, values[4:5])


OTHER_PROCESS = """
import sys, torch
from sdesig.sigdeg import SigDEG
from sdesig.sampling import SNRDenoiser
from sdesig.sde import Mixture
torch.set_num_threads(1)
folder, out = sys.argv[1:]
denoiser = SNRDenoiser(Mixture.circle(1.0, 0.3, dtype=torch.float32).denoise_y)
SigDEG.load(folder, denoiser=denoiser).sample([5, 2**40, 7], 6, batch=2).save(out)
"""


def test_an_image_is_the_same_in_another_process(tmp_path):
    generator = shaken(make(reference="pca", grid=SKEWED))
    generator.save(tmp_path / "generator")
    command = [sys.executable, "-c", OTHER_PROCESS, tmp_path / "generator", tmp_path / "samples.npz"]
    subprocess.run(command, check=True, timeout=120)
    theirs, ours = Samples.load(tmp_path / "samples.npz"), generator.sample([5, 2**40, 7], 6)
    close(theirs.values, ours.values)
    assert (theirs.identity, theirs.steps) == (ours.identity, ours.steps)


def test_generators_of_two_depths_have_the_same_paths():
    """The depth of the path is part of its identity; that of the cell is not."""
    one, two = (make(depth=depth) for depth in (1, 2))
    assert one.space == two.space
    assert one.sample(3, 4).identity == two.sample(3, 4).identity
    assert make(depth=2, space_depth=2).sample(3, 4).identity != two.sample(3, 4).identity
    assert make(depth=6, space_depth=6).space.depth == 6
    assert two.space.depth == 4


# --- numbers of steps ------------------------------------------------------------------------------------------------


def test_images_of_one_seed_agree_better_and_better():
    """Untrained the generator is path-average: order 1.5 against that scheme in 1024 steps, on the path of the same
    identity. Paths are seeded; the interval ends .15 below the order, three half-widths."""
    generator = make(cells=2**10, snr=(math.exp(-3), math.exp(3)))
    steps = (8, 16, 32, 64, 128)
    samples = [generator.sample(400, n) for n in steps]
    path = generator.space.paths(400)
    assert all(sample.identity == path.identity for sample in samples)

    sde, times = CanonicalSDE(SNRDenoiser(CIRCLE.denoise_y), reference=generator.space.reference), path.grid(1024)
    states = solve(sde, sde.start(path.initial_noise(), times[0]), times, scheme="path_average", path=path)
    exact = sde.noisy_data(states[-1], times[-1])
    errors = torch.stack([(sample.values - exact).norm(dim=1) for sample in samples]).double()
    sizes = errors.square().mean(1).sqrt()
    assert (sizes[1:] < sizes[:-1] / 2).all(), sizes
    estimate = fit_strong(errors[1:], steps[1:])
    assert estimate.ci_low > 1.35, estimate


def test_images_of_other_seeds_do_not_agree():
    generator = make()
    one, other = generator.sample(range(50), 64).values, generator.sample(range(50, 100), 64).values
    assert (one - other).square().mean().sqrt() > 0.5


def test_the_grid_of_a_call_goes_before_the_generators_own():
    plain, skewed = make(), make(grid=SKEWED)
    close(plain.sample(5, 6, grid=SKEWED).values, skewed.sample(5, 6).values)
    close(skewed.sample(5, 6, grid=StepGrid()).values, plain.sample(5, 6).values)
    assert (skewed.sample(5, 6).values - plain.sample(5, 6).values).abs().max() > 1e-3


def test_the_callback_sees_every_step_of_every_batch():
    seen = []
    generator = make()
    generator.sample(5, 3, batch=3, callback=lambda done, time, state: seen.append((done, time.item(), len(state))))
    times = generator.space.times(3).tolist()
    assert seen == [(k, times[k], rows) for rows in (3, 2) for k in (1, 2, 3)]


def test_no_samples_require_gradients():
    assert not shaken(make()).sample(3, 2).values.requires_grad


# --- samples in files --------------------------------------------------------------------------------------------


def test_samples_save_load_and_replay(tmp_path):
    generator = shaken(make(reference="pca"))
    samples = generator.sample([4, 9, 2**50], 5)
    samples.save(tmp_path / "folder" / "samples.npz")
    loaded = Samples.load(tmp_path / "folder" / "samples.npz")
    assert torch.equal(loaded.values, samples.values)
    assert (loaded.steps, loaded.identity) == (5, samples.identity)
    assert loaded.seeds == [4, 9, 2**50]
    again = generator.sample(loaded.seeds, loaded.steps)
    assert torch.equal(again.values, loaded.values)
    assert again.identity == loaded.identity


def test_samples_of_several_calls_are_joined():
    generator = shaken(make(reference="pca"))
    parts = [generator.sample(seeds, 5) for seeds in ([4, 9], [1], [2**50, 0])]
    joined, whole = Samples.join(parts), generator.sample([4, 9, 1, 2**50, 0], 5)
    assert (joined.identity, joined.steps) == (whole.identity, 5)
    torch.testing.assert_close(joined.values, whole.values)


@pytest.mark.parametrize("steps, reference", [(4, "pca"), (5, "none")])
def test_samples_of_other_steps_or_paths_are_not_joined(steps, reference):
    parts = [make(reference="pca").sample(2, 5), make(reference=reference).sample(2, steps)]
    with pytest.raises(ValueError, match="parts must have the same number of steps and the same paths"):
        Samples.join(parts)
    with pytest.raises(ValueError, match="parts must be one or more"):
        Samples.join([])


@pytest.mark.parametrize("batch", [2, 1024])
def test_the_path_of_a_seed_is_made_once(batch, monkeypatch):
    generator, made, make_path = make(), [], BrownianPath.__init__

    def counted(self, *arguments, **options):
        make_path(self, *arguments, **options)
        made.extend(self.seeds)

    monkeypatch.setattr(BrownianPath, "__init__", counted)
    generator.sample([3, 1, 2, 8, 5], 4, batch=batch)
    assert made == [3, 1, 2, 8, 5]


def write(file, text=None, **arrays):
    """A file of something else."""
    if text is None:
        np.savez(file, **arrays)
    else:
        file.write_bytes(text)


@pytest.mark.parametrize(
    "content",
    [
        {"text": b""},
        {"text": b"not an archive"},
        {"values": np.zeros((2, 2))},
        {"values": np.zeros((2, 2)), "steps": np.int64(3), "identity": np.array("{")},
        {"values": np.array([{}], dtype=object), "steps": np.int64(3), "identity": np.array("{}")},
    ],
    ids=["empty", "text", "arrays missing", "identity no JSON", "pickled objects"],
)
def test_files_of_something_else_are_no_samples(content, tmp_path):
    write(tmp_path / "samples.npz", **content)
    with pytest.raises(ValueError, match=r"samples.npz is not a file of samples"):
        Samples.load(tmp_path / "samples.npz")


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_truncated_file_is_no_samples(tmp_path):
    """numpy leaves a broken archive open where it is given a name, which warns."""
    make().sample(20, 2).save(tmp_path / "samples.npz")
    whole = (tmp_path / "samples.npz").read_bytes()
    (tmp_path / "samples.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"samples.npz is not a file of samples"):
        Samples.load(tmp_path / "samples.npz")


def test_missing_samples_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.npz does not exist"):
        Samples.load(tmp_path / "none.npz")


# --- generators in files --------------------------------------------------------------------------------------------


@every_kind
@every_reference
@pytest.mark.parametrize("grid", [StepGrid(), SKEWED], ids=["even", "skewed"])
def test_generators_save_and_load(kind, reference, grid, tmp_path):
    generator = shaken(KINDS[kind](reference=reference, grid=grid, depth=3, space_depth=5))
    generator.save(tmp_path / "generator")
    loaded = SigDEG.load(tmp_path / "generator", denoiser=denoiser_of(kind))
    assert isinstance(loaded.cell, type(generator.cell))
    assert not loaded.training
    assert (loaded.space, loaded.depth) == (generator.space, generator.depth)
    assert loaded.cell.sigma_data == generator.cell.sigma_data
    samples, again = generator.sample([3, 8], 5), loaded.sample([3, 8], 5)
    assert torch.equal(again.values, samples.values)
    assert again.identity == samples.identity
    assert sorted(file.name for file in (tmp_path / "generator").iterdir()) == ["config.json", "weights.safetensors"]


def test_half_the_bits_of_a_generator_are_those_of_its_cell(tmp_path):
    """The reference stays as it is: its basis would not be orthogonal in float16."""
    generator = shaken(make(network_teacher(), reference="pca"))
    generator.save(tmp_path / "whole")
    generator.save(tmp_path / "half", half=True)
    kept, loaded = load_file(tmp_path / "half" / "weights.safetensors"), SigDEG.load(tmp_path / "half").state_dict()
    for name, value in SigDEG.load(tmp_path / "whole").state_dict().items():
        assert loaded[name].dtype == torch.float32
        assert (kept[name].dtype == torch.float16) == name.startswith("cell.")
        assert torch.equal(loaded[name], value.half().float() if name.startswith("cell.") else value)


def test_what_a_loaded_generator_trains_is_what_it_trained_before(tmp_path):
    for kind in KINDS:
        generator = KINDS[kind]()
        generator.save(tmp_path / kind)
        loaded = SigDEG.load(tmp_path / kind, denoiser=denoiser_of(kind))
        before, after = ({n: p.requires_grad for n, p in g.named_parameters()} for g in (generator, loaded))
        assert after == before


def test_the_corrected_denoiser_is_not_saved(tmp_path):
    """A teacher with parameters, corrected by a network of one's own."""
    teacher = network_teacher()
    network = MLP(2, width=16, blocks=1, conditions=2, extra=4)
    generator = SigDEG.from_teacher(teacher, space_of(), depth=2, network=network)
    generator.save(tmp_path)
    numbers = sum(value.numel() for value in load_file(tmp_path / "weights.safetensors").values())
    assert numbers < sum(p.numel() for p in generator.parameters()) + 10
    loaded = SigDEG.load(tmp_path, denoiser=teacher)
    assert torch.equal(loaded.sample(3, 4).values, generator.sample(3, 4).values)


def spoilt(folder, kind="solver, network", *, config=None, weights=None, files=None, denoiser=None):
    """Load a saved generator after a change of its config, of its tensors, or of its files."""
    shaken(KINDS[kind]()).save(folder)
    if config is not None:
        values = json.loads((folder / "config.json").read_text())
        config(values)
        (folder / "config.json").write_text(json.dumps(values))
    if weights is not None:
        tensors = tensors_of(folder)
        weights(tensors)
        save_file(tensors, folder / "weights.safetensors")
    if files is not None:
        files(folder)
    return SigDEG.load(folder, denoiser=denoiser)


def tensors_of(folder):
    """A copy of the weights: the file is about to be written over."""
    return {name: value.clone() for name, value in load_file(folder / "weights.safetensors").items()}


def truncate(folder):
    whole = (folder / "weights.safetensors").read_bytes()
    (folder / "weights.safetensors").write_bytes(whole[: len(whole) - 100])


def pickle_weights(folder):
    torch.save(tensors_of(folder), folder / "weights.safetensors")


BIAS = "cell.denoiser.change.1"


@pytest.mark.parametrize(
    "changes, error, match",
    [
        ({"files": lambda folder: (folder / "config.json").unlink()}, FileNotFoundError, "has no config.json"),
        ({"files": lambda folder: (folder / "weights.safetensors").unlink()}, FileNotFoundError, "does not exist"),
        ({"files": truncate}, ValueError, "not a complete safetensors file"),
        ({"files": pickle_weights}, ValueError, "not a complete safetensors file .* pickles are not loaded"),
        ({"files": lambda folder: (folder / "config.json").write_text("{")}, ValueError, "is not JSON"),
        (
            {"config": lambda c: c.update(type="denoiser")},
            ValueError,
            "must hold a sig_deg; its config.json says 'denoi",
        ),
        ({"config": lambda c: c.pop("type")}, ValueError, "must hold a sig_deg; its config.json says None"),
        ({"config": lambda c: c.pop("depth")}, ValueError, "not one of a generator: it must have the keys .*depth"),
        (
            {"config": lambda c: c.update(event=2)},
            ValueError,
            "config.json is not one of a generator: event must be a list",
        ),
        ({"config": lambda c: c.update(grid=[0.0, 0.5])}, ValueError, "quantiles must increase from 0 to 1"),
        ({"config": lambda c: c.update(snr=[2.0, 1.0])}, ValueError, "snr must be .* first < last"),
        ({"config": lambda c: c.update(depth=3)}, ValueError, "extra inputs"),
        ({"config": lambda c: c["network"].update(width=8)}, ValueError, "must be torch.float32 of shape"),
        ({"config": lambda c: c["network"].update(blocks=2)}, ValueError, "does not fit its config.json; missing"),
        ({"config": lambda c: c["network"].update(heads=2)}, ValueError, "is not one of a generator: MLP has no heads"),
        ({"config": lambda c: c["network"].update(kind="resnet")}, ValueError, "kind of network must be one of"),
        (
            {"config": lambda c: c.update(variance=[2])},
            ValueError,
            r"variance must be as in weights.safetensors, of shape \[\]; got \[2\]",
        ),
        ({"config": lambda c: c.update(basis=[2])}, ValueError, "missing: basis_0"),
        (
            {"weights": lambda t: t.update(more=torch.zeros(1))},
            ValueError,
            "does not fit its config.json; unknown: more",
        ),
        ({"weights": lambda t: t.pop("mean")}, ValueError, "does not fit its config.json; missing: mean"),
        ({"weights": lambda t: t.update({BIAS: torch.zeros(5)})}, ValueError, f"{BIAS} must be torch.float32 of shape"),
        ({"weights": lambda t: t.update({BIAS: t[BIAS].double()})}, ValueError, "it is torch.float64 of shape"),
        ({"weights": lambda t: t[BIAS].view(-1)[0].fill_(math.nan)}, ValueError, f"{BIAS} is not finite"),
        ({"weights": lambda t: t[BIAS].view(-1)[0].fill_(math.inf)}, ValueError, f"{BIAS} is not finite"),
        ({"weights": lambda t: t["variance"].fill_(-1.0)}, ValueError, "variance must be a?.*>= 0"),
        ({"denoiser": SNRDenoiser(CIRCLE.denoise_y)}, ValueError, "denoiser must not be given"),
        ({"kind": "plain", "denoiser": SNRDenoiser(CIRCLE.denoise_y)}, ValueError, "denoiser must not be given"),
        ({"kind": "solver, corrected"}, ValueError, "denoiser must be given"),
    ],
)
def test_broken_generators_are_refused(changes, error, match, tmp_path):
    with pytest.raises(error, match=match):
        spoilt(tmp_path, **changes)


def test_a_basis_that_is_not_orthogonal_is_refused(tmp_path):
    make(reference="pca").save(tmp_path)
    tensors = tensors_of(tmp_path)
    tensors["basis_0"][0, 0] += 0.1
    save_file(tensors, tmp_path / "weights.safetensors")
    with pytest.raises(ValueError, match="must be orthogonal"):
        SigDEG.load(tmp_path, denoiser=SNRDenoiser(CIRCLE.denoise_y))


def test_a_reference_is_proved_once(monkeypatch, tmp_path):
    """When it is made and when it is loaded: not by an access, a sample, a copy or a move."""
    generator = make(reference="pca")
    proved, prove = [], GaussianReference.__init__

    def counted(self, *arguments, **options):
        if len(arguments) > 2 and arguments[2]:
            proved.append(self)
        prove(self, *arguments, **options)

    monkeypatch.setattr(GaussianReference, "__init__", counted)
    assert generator.space.reference is generator.space.reference
    generator.sample(3, 4)
    copy.deepcopy(generator).save(tmp_path)
    moved = make(reference="pca").double()
    proved.clear()
    assert moved.space.reference.mean.dtype == moved.space.reference.basis[0].dtype == torch.float64
    assert moved.space.reference.mean is moved.get_buffer("mean")
    assert not proved
    loaded = SigDEG.load(tmp_path, denoiser=SNRDenoiser(CIRCLE.denoise_y))
    proved.clear()
    loaded.sample(3, 4)
    assert not proved


def test_weights_that_are_loaded_have_their_own_reference(tmp_path):
    one, other = make(reference="pca"), make(reference="pca")
    other.get_buffer("variance").mul_(2.0)
    other.get_buffer("basis_0").mul_(-1.0)
    assert torch.equal(REFERENCES["pca"].variance, torch.tensor([0.3, 0.9]))  # a generator has tensors of its own
    nn.Sequential(one).load_state_dict(nn.Sequential(other).state_dict())
    assert torch.equal(one.space.reference.variance, torch.tensor([0.6, 1.8]))
    assert torch.equal(one.space.reference.basis[0], -TURN)
    assert torch.equal(one.sde.clock.variance, one.space.reference.variance)
    coarse = make(reference="pca").bfloat16()
    coarse.load_state_dict(other.state_dict())
    assert torch.equal(coarse.space.reference.variance, torch.tensor([0.6, 1.8]).bfloat16())
    scalar, wider = make(), make()
    wider.get_buffer("variance").mul_(2.0)
    scalar.load_state_dict(wider.state_dict())
    assert scalar.space.reference.variance == wider.get_buffer("variance") > 0


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing is not a folder"):
        SigDEG.load(tmp_path / "nothing")


# --- refusals ------------------------------------------------------------------------------------------------------


def cell():
    return PlainCell(NetworkDenoiser(MLP(2, width=8, conditions=2, extra=3), 0.7), 2, 0.7)


def direct(made=None, **place):
    return SigDEG(cell() if made is None else made, space_of(**place))


def from_teacher(teacher=None, space=None, **options):
    teacher = SNRDenoiser(CIRCLE.denoise_y) if teacher is None else teacher
    return SigDEG.from_teacher(teacher, space_of() if space is None else space, **{"depth": 2} | options)


@pytest.mark.parametrize(
    "call, error, match",
    [
        (lambda: direct(MLP(2)), TypeError, "cell must be a SolverCell or a PlainCell"),
        (lambda: direct(snr=(2.0, 2.0)), ValueError, r"snr must be \(first, last\) with first < last"),
        (lambda: direct(snr=(0.0, 2.0)), ValueError, r"snr\[0\] must be a finite number > 0"),
        (lambda: direct(snr=(1.0, math.inf)), ValueError, r"snr\[1\] must be a finite number > 0"),
        (lambda: direct(snr=3.0), TypeError, r"snr must be two numbers, \(first, last\); got 3.0"),
        (lambda: direct(event="ab"), TypeError, "event must be an int or a sequence of ints; got 'ab'"),
        (lambda: direct(reference=None), TypeError, "reference must be a GaussianReference; got NoneType"),
        (lambda: direct(grid=3), TypeError, "grid must be a StepGrid; got int"),
        (lambda: SigDEG(cell(), SCALAR), TypeError, "space must be a PathSpace; got GaussianReference"),
        (lambda: from_teacher(space=SCALAR), TypeError, "space must be a PathSpace; got GaussianReference"),
        (lambda: from_teacher(network=torch.nn.Linear(2, 2)), TypeError, "network must be a Network; got Linear"),
        (lambda: direct(event=(0,)), ValueError, r"event\[0\] must be >= 1; got 0"),
        (lambda: direct(cells=2**31), ValueError, r"cells must be in \[1, 1073741824\]; got 2147483648"),
        (lambda: direct(depth=1), ValueError, r"space\.depth must be >= 2; got 1"),
        (lambda: from_teacher(space=space_of(depth=4), depth=5), ValueError, r"space\.depth must be >= 5; got 4"),
        (lambda: direct(reference=GaussianReference(torch.zeros(3), 0.1)), ValueError, "mean must broadcast against"),
        (lambda: direct(reference=GaussianReference(0.0, torch.ones(3))), ValueError, "variance must broadcast"),
        (
            lambda: direct(reference=GaussianReference(0.0, 0.1, torch.eye(3))),
            ValueError,
            "basis must be a matrix for each of the last axes",
        ),
        (lambda: from_teacher(cell="lstm"), ValueError, "cell must be one of 'solver', 'plain'; got 'lstm'"),
        (lambda: from_teacher(depth=0), ValueError, r"depth must be in \[1, 4096\]; got 0"),
        (
            lambda: from_teacher(network_teacher(), space_of(NUMBERS, (3,))),
            ValueError,
            r"space must have the teacher's event, \(2,\); it has \(3,\)",
        ),
        (
            lambda: from_teacher(network=MLP(2, width=8, conditions=2, extra=3)),
            ValueError,
            r"network must be for events \(2,\), with 2 conditions and 4 extra inputs",
        ),
        (lambda: from_teacher(cell="plain", network=MLP(2, width=8)), ValueError, "2 conditions and 3 extra inputs"),
        (
            lambda: from_teacher(space=space_of(NUMBERS, (2, 3))),
            ValueError,
            r"event must be \(dim,\) or",
        ),
        (lambda: direct().sample(3, 0), ValueError, r"steps must be in \[1, 1280\]; got 0"),
        (lambda: direct(cells=2**3).sample(3, 9), ValueError, r"steps must be in \[1, 8\]; got 9"),
        (lambda: direct().sample(3, 4.0), TypeError, "steps must be an integer; got 4.0"),
        (lambda: direct().sample(3, 4, batch=0), ValueError, "batch must be >= 1; got 0"),
        (lambda: direct().sample(3, 4, grid=3), TypeError, "grid must be a StepGrid; got int"),
        (lambda: direct().sample(3, 4, callback=3), TypeError, "callback must be callable as callback"),
        (lambda: direct().sample(None, 4), TypeError, "seeds must be a sequence of integers"),
        (lambda: direct().sample(10**14, 4), ValueError, r"seeds must be in \[1, 100000000\]"),
        (lambda: direct().sample(range(10**13), 4), ValueError, "seeds must be 100000000 at most"),
        (lambda: direct().sample(0, 4), ValueError, r"seeds must be in \[1, 100000000\]; got 0"),
        (lambda: direct().sample([-1], 4), ValueError, "seeds must"),
        (lambda: direct().sample([2**63], 4), ValueError, "seeds must"),
        (lambda: direct().sample([0.5], 4), (TypeError, ValueError), "seeds must"),
    ],
)
def test_refusals(call, error, match):
    with pytest.raises(error, match=match):
        call()


def test_a_state_that_is_not_finite_is_an_error():
    generator = make(network_teacher(), cell="plain")
    with torch.no_grad():
        generator.cell.denoiser.network.final.bias[1] = math.inf
    with pytest.raises(FloatingPointError, match="the state is not finite after step 1 of 4"):
        generator.sample(3, 4)


def test_the_sde_of_a_generator_has_no_denoiser():
    generator = make()
    path = generator.space.paths(2)
    with pytest.raises(TypeError, match="solve it with the generator's cell"):
        solve(generator.sde, path.initial_noise(), path.grid(2), scheme="path_average", path=path)


def test_default_networks_fit():
    """An MLP for vectors, a UNet for images; a teacher's own network if it is one of ours."""
    assert isinstance(from_teacher().cell.denoiser.network, MLP)
    images = from_teacher(SNRDenoiser(lambda y, snr: y), space_of(NUMBERS, (1, 4, 4)), cell="plain")
    assert isinstance(images.cell.denoiser.network, UNet)
    plain = from_teacher(network_teacher(), cell="plain").cell.denoiser
    assert (plain.network.width, plain.network.blocks) == (16, 1)
    for name in ("first", "final"):
        assert torch.equal(getattr(plain.network, name).weight, getattr(network_teacher().network, name).weight)
    assert isinstance(from_teacher(network_teacher()).cell, SolverCell)
    assert from_teacher(network_teacher()).cell.sigma_data == 0.7
    assert from_teacher().cell.sigma_data == pytest.approx(SCALAR.variance.sqrt().item())


@pytest.mark.parametrize("cell", ["solver", "plain"])
def test_sampling_keeps_no_states_and_no_path(cell, monkeypatch):
    """Beside the 16 among which a broken one is looked for, and of the path one chunk and the next."""
    generator, states, chunks, most = make(cell=cell), [], [], [0, 0]
    drawn = BrownianPath.partial_signatures

    def alive(references):
        return sum(reference() is not None for reference in references)

    def draw(path, times):
        steps = drawn(path, times)
        chunks.append(weakref.ref(steps.coefficients))
        most[1] = max(most[1], alive(chunks))
        return steps

    def see(number, t, u):
        states.append(weakref.ref(u))
        most[0] = max(most[0], alive(states))

    monkeypatch.setattr("sdesig.solvers.driver._ASKED_AT_ONCE", 4 * generator.space.depth * 5 * 2)
    monkeypatch.setattr(BrownianPath, "partial_signatures", draw)
    assert generator.sample(5, 128, callback=see).values.isfinite().all()
    assert (len(states), len(chunks)) == (128, 32)
    assert most[0] <= 20
    assert most[1] <= 3
