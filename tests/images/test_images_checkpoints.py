"""Checkpoints of EDM and score-SDE: D is what their authors make of the network; whatever does not fit is named."""

import math
import pickle
import re

import pytest
import torch
from images_tiny import change_weights, normal, path_average_samples
from safetensors.torch import load_file, save_file
from song_reference import KINDS, Reference, config_of

from sdesig.commands.inputs import load_teacher
from sdesig.images import checkpoints
from sdesig.images.checkpoints import ScoreSDEDenoiser, load_edm, load_score_sde
from sdesig.images.song_unet import SongUNet
from sdesig.sampling import GaussianReference, PathSpace
from sdesig.sigdeg import NetworkDenoiser, SigDEG, UNet
from sdesig.sigdeg.network_denoiser import ModelDenoiser

every_kind = pytest.mark.parametrize("kind", KINDS)
SDES = {"vp": "ddpmpp", "subvp": "ncsnpp of VP", "ve": "ncsnpp"}
every_sde = pytest.mark.parametrize("sde, kind", SDES.items(), ids=SDES)


def edm_file(folder, reference):
    """As EDM's `state_dict` has them."""
    weights = {f"model.{name}": value for name, value in reference.edm().items()}
    weights["model.map_augment.weight"] = normal(8, 9)
    save_file(weights, folder / "edm.safetensors")
    return folder / "edm.safetensors"


def score_sde_file(folder, reference):
    """As score-SDE's `DataParallel` has them."""
    weights = {f"module.{name}": value.contiguous() for name, value in reference.score_sde().items()}
    save_file({**weights, "module.sigmas": torch.ones(10)}, folder / "score_sde.safetensors")
    return folder / "score_sde.safetensors"


def edm_teacher(folder, kind="ddpmpp"):
    reference = Reference(**KINDS[kind])
    return load_edm(edm_file(folder, reference), config=reference.config())


def score_sde_teacher(folder, sde):
    reference = Reference(**KINDS[SDES[sde]])
    return load_score_sde(score_sde_file(folder, reference), config=reference.config(), sde=sde)


def relative(found, expected):
    """Largest difference, by the size of each row."""
    return ((found - expected).flatten(1).norm(dim=1) / expected.flatten(1).norm(dim=1)).max().item()


# --- EDM -------------------------------------------------------------------------------------------------------------


@every_kind
def test_edm_is_preconditioned_as_in_the_paper(kind, tmp_path):
    """Karras et al. 2022, table 1, last column."""
    reference = Reference(**KINDS[kind])
    teacher = load_edm(edm_file(tmp_path, reference), config=reference.config(), sigma_data=0.7)
    assert isinstance(teacher, NetworkDenoiser)
    assert (teacher.event, teacher.sigma_data, teacher.training) == ((2, 16, 16), 0.7, False)
    for sigma in (0.01, 0.8, 40.0):
        x = normal(2, 2, 16, 16) * (1 + sigma)
        c_noise = torch.full((2,), math.log(sigma) / 4)
        scale = math.sqrt(sigma**2 + 0.7**2)
        expected = 0.7**2 / scale**2 * x + sigma * 0.7 / scale * reference(x / scale, c_noise)
        assert relative(teacher(x / sigma**2, sigma**-2), expected) < 1e-4


def test_a_network_of_zeros_is_the_skip(tmp_path):
    """D = sigma_data^2/(sigma^2 + sigma_data^2) x: the mean given x, for a Gaussian."""
    teacher = edm_teacher(tmp_path)
    teacher.network.zero_last()
    x, sigma = normal(2, 2, 16, 16), 0.3
    assert relative(teacher(x / sigma**2, sigma**-2), 0.25 / (sigma**2 + 0.25) * x) < 1e-6


def test_edm_labels(tmp_path):
    reference = Reference(classes=4)
    file, config = edm_file(tmp_path, reference), reference.config()
    y, labels = normal(3, 2, 16, 16), torch.tensor([2, 0, 2])
    values = load_edm(file, config=config)(y, 0.7, labels)
    two = load_edm(file, config={**config, "label": 2})(y, 0.7)
    torch.testing.assert_close(values[[0, 2]], two[[0, 2]])
    assert (values[1] - two[1]).abs().max() > 1e-3
    with pytest.raises(ValueError, match="labels must be given"):
        load_edm(file, config=config)(y, 0.7)


def test_the_prefix_may_be_left_out_and_half_precision_becomes_float32(tmp_path):
    reference = Reference()
    save_file({name: value.half() for name, value in reference.edm().items()}, tmp_path / "half.safetensors")
    teacher = load_edm(tmp_path / "half.safetensors", config=reference.config())
    assert {p.dtype for p in teacher.parameters()} == {torch.float32}
    whole = load_edm(edm_file(tmp_path, reference), config=reference.config())
    y = normal(2, 2, 16, 16)
    assert 1e-6 < relative(teacher(y, 1.0), whole(y, 1.0)) < 1e-2


def test_loading_leaves_the_global_generator_alone(tmp_path):
    reference = Reference(**KINDS["ncsnpp"])
    file = edm_file(tmp_path, reference)
    torch.manual_seed(3)
    load_edm(file, config=reference.config())
    found = torch.rand(3)
    torch.manual_seed(3)
    assert torch.equal(found, torch.rand(3))


# --- score-SDE -------------------------------------------------------------------------------------------------------


@every_sde
def test_score_sde_is_asked_as_in_the_paper(sde, kind, tmp_path):
    """D = (x + std^2 score)/alpha, with mean and std of Song et al. 2021, eq. 29; VE has images in [0, 1]."""
    reference, teacher = Reference(**KINDS[kind]), score_sde_teacher(tmp_path, sde)
    assert isinstance(teacher, ScoreSDEDenoiser)
    assert not teacher.training
    for t in (0.05, 0.4, 0.95):
        x, time = normal(2, 2, 16, 16), torch.full((2,), t)
        if sde == "ve":
            std = 0.01 * 5000**t
            pixels = (x + 1) / 2
            score = reference(2 * pixels - 1, (std * torch.ones(2)).log()) / std
            expected, alpha, sigma = 2 * (pixels + std**2 * score) - 1, 1.0, 2 * std
        else:
            alpha = math.exp(-0.25 * t**2 * 19.9 - 0.5 * t * 0.1)
            sigma = math.sqrt(1 - alpha**2) if sde == "vp" else 1 - alpha**2
            score = -reference(x, 999 * time) / sigma
            expected = (x + sigma**2 * score) / alpha
        assert relative(teacher(alpha / sigma**2 * x, alpha**2 / sigma**2), expected) < 1e-3


def test_the_range_of_score_sdes_schedules(tmp_path):
    first, last = score_sde_teacher(tmp_path, "ve").snr
    assert (first, last) == pytest.approx((1e-4, 2500.0))
    first, last = score_sde_teacher(tmp_path, "vp").snr
    assert first == pytest.approx(math.exp(-10.05) / (1 - math.exp(-10.05)))
    assert last > 1000


# --- students --------------------------------------------------------------------------------------------------------


def teachers(folder):
    return {"edm": edm_teacher(folder, "ncsnpp"), **{sde: score_sde_teacher(folder, sde) for sde in SDES}}


def student_of(teacher, **options):
    data = 0.4 * normal(40, 2, 16, 16, seed=9)
    space = PathSpace(teacher.event, (0.02, 200.0), GaussianReference.fit(data, "dct"), cells=2**6, depth=4)
    return SigDEG.from_teacher(teacher, space, **({"depth": 3} | options))


@pytest.mark.parametrize("name", ["edm", *SDES])
def test_a_student_starts_as_the_path_average_scheme_and_is_saved_to_the_bit(name, tmp_path):
    teacher = teachers(tmp_path)[name]
    student = student_of(teacher)
    expected = path_average_samples(teacher, student, 2, 4)
    assert relative(student.sample(2, 4).values, expected) < 1e-4
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in student.cell.denoiser.change:
            p.add_(0.05 * torch.randn(p.shape, generator=generator))
    values = student.eval().sample(2, 4).values
    assert relative(values, expected) > 1e-3
    student.save(tmp_path / "student")
    assert torch.equal(SigDEG.load(tmp_path / "student").sample(2, 4).values, values)


@pytest.mark.parametrize("name", ["edm", *SDES])
def test_a_teacher_is_saved_to_the_bit(name, tmp_path):
    """So that the command line can name it."""
    teacher, y = teachers(tmp_path)[name], normal(2, 2, 16, 16)
    teacher.save(tmp_path / "saved")
    loaded = ModelDenoiser.load(tmp_path / "saved")
    assert type(loaded) is type(teacher)
    assert torch.equal(loaded(y, 0.5), teacher(y, 0.5))
    assert torch.equal(load_teacher(str(tmp_path / "saved")).denoiser(y, 0.5), teacher(y, 0.5))


def test_a_denoiser_of_another_kind(tmp_path):
    score_sde_teacher(tmp_path, "ve").save(tmp_path / "saved")
    with pytest.raises(ValueError, match="must hold a NetworkDenoiser; it holds a ScoreSDEDenoiser"):
        NetworkDenoiser.load(tmp_path / "saved")


# --- how to write the files ------------------------------------------------------------------------------------------


class Pickled(torch.nn.Module):
    """Stands for EDM's preconditioned network."""

    def __init__(self, weights):
        super().__init__()
        self.weights = weights

    def state_dict(self):
        return self.weights


def lines_of_the_documentation(first):
    """The indented lines of the module's docstring from one that starts so on."""
    blocks = re.findall(r"(?:^    .*\n)+", checkpoints.__doc__, re.MULTILINE)
    (block,) = [block for block in blocks if block.startswith(f"    {first}")]
    return re.sub("^    ", "", block, flags=re.MULTILINE)


def test_the_documented_lines_write_edms_weights(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    reference = Reference()
    weights = {f"model.{name}": value for name, value in reference.edm().items()}
    with open("edm-cifar10-32x32-uncond-vp.pkl", "wb") as file:
        pickle.dump({"ema": Pickled(weights)}, file)
    exec(lines_of_the_documentation("import pathlib"), {})
    teacher = load_edm("edm.safetensors", config=reference.config())
    assert all(torch.equal(teacher.network.state_dict()[n.removeprefix("model.")], v) for n, v in weights.items())


@pytest.mark.parametrize("kind", ["ddpmpp", "ncsnpp"])
def test_the_documented_lines_write_score_sdes_moving_average(kind, tmp_path, monkeypatch):
    """Which lists the trained parameters: neither the table of sigmas nor the frequencies."""
    monkeypatch.chdir(tmp_path)
    reference = Reference(**KINDS[kind])
    averages = {f"module.{name}": value for name, value in reference.score_sde().items()}
    trained = [name for name in averages if not (kind == "ncsnpp" and name == "module.all_modules.0.W")]
    model = {name: value if name not in trained else torch.zeros_like(value) for name, value in averages.items()}
    state = {
        "model": {"module.sigmas": torch.ones(10), **model},
        "ema": {"decay": 0.999, "num_updates": 5, "shadow_params": [averages[name] for name in trained]},
    }
    torch.save(state, "checkpoint_8.pth")
    exec(lines_of_the_documentation("import torch"), {})
    written = load_file("score_sde.safetensors")
    assert torch.equal(written.pop("module.sigmas"), torch.ones(10))
    assert written.keys() == averages.keys()
    assert all(torch.equal(value, averages[name]) for name, value in written.items())


# --- refusals --------------------------------------------------------------------------------------------------------


def fresh(folder, load):
    reference = Reference()
    write = edm_file if load is load_edm else score_sde_file
    return write(folder, reference), reference.config()


def ask(load, file, config):
    return load(file, config=config, **({} if load is load_edm else {"sde": "vp"}))


NAMES = {load_edm: "model.enc.16x16_block0.conv0.weight", load_score_sde: "module.all_modules.3.Conv_0.weight"}
every_loader = pytest.mark.parametrize("load", NAMES, ids=["EDM", "score-SDE"])


@every_loader
@pytest.mark.parametrize("whole", [True, False], ids=["pickle", "truncated"])
def test_pickles_are_refused_with_an_explanation(load, whole, tmp_path):
    file, config = fresh(tmp_path, load)
    if whole:
        torch.save(Reference().state_dict(), file)
    else:
        file.write_bytes(file.read_bytes()[:1000])
    match = "not a complete safetensors file .*pickles are not loaded, since they can run any code; the documentation"
    with pytest.raises(ValueError, match=match):
        ask(load, file, config)


@every_loader
def test_weights_that_do_not_fit_are_named(load, tmp_path):
    name = NAMES[load]
    shown = re.escape(name.split(".", 1)[1])
    file, config = fresh(tmp_path, load)
    change_weights(file, lambda t: t.pop(name))
    with pytest.raises(ValueError, match=f"does not fit the configuration(.|\n)*[mM]issing(.|\n)*{shown}"):
        ask(load, file, config)
    file, config = fresh(tmp_path, load)
    change_weights(file, lambda t: t.update({"model.more.weight": torch.zeros(1)}))
    with pytest.raises(ValueError, match=r"does not fit the configuration(.|\n)*more\.weight"):
        ask(load, file, config)
    file, config = fresh(tmp_path, load)
    change_weights(file, lambda t: t.update({name: torch.zeros(8, 9, 3, 3)}))
    with pytest.raises(ValueError, match=r"size mismatch for enc.16x16_block0.conv0.weight: .*\[8, 9, 3, 3\]"):
        ask(load, file, config)
    file, config = fresh(tmp_path, load)
    change_weights(file, lambda t: t[name].view(-1)[3].fill_(math.nan))
    with pytest.raises(ValueError, match=r"enc.16x16_block0.conv0.weight is not finite"):
        ask(load, file, config)


@every_loader
@pytest.mark.parametrize(
    "changes",
    [
        {"blocks": 3},
        {"width": 16},
        {"multipliers": (1, 2, 2)},
        {"attention": (16, 8)},
        {"encoder": "residual"},
        {"classes": 3},
        {"channels": 3},
    ],
)
def test_other_configurations_are_refused(load, changes, tmp_path):
    file, config = fresh(tmp_path, load)
    with pytest.raises(ValueError, match="does not fit the configuration"):
        ask(load, file, {**config, **changes})


def test_another_filter_is_refused(tmp_path):
    file, config = fresh(tmp_path, load_edm)
    name = "model.enc.8x8_down.conv0.resample_filter"
    change_weights(file, lambda t: t.update({name: torch.full((1, 1, 4, 4), 1 / 16)}))
    with pytest.raises(ValueError, match=r"size mismatch for enc\.8x8_down\.conv0\.resample_filter"):
        ask(load_edm, file, config)


def test_unsupported_models_of_score_sde_are_named(tmp_path):
    """Such as 'ddpm', whose blocks have a NIN where sizes differ."""
    file, config = fresh(tmp_path, load_score_sde)
    change_weights(file, lambda t: t.update({"module.all_modules.6.NIN_0.W": torch.zeros(8, 16)}))
    match = r"unknown: all_modules.6.NIN_0.W. Supported is the model 'ncsnpp' with resblock_type 'biggan' and progressi"
    with pytest.raises(ValueError, match=match):
        ask(load_score_sde, file, config)
    file, config = fresh(tmp_path, load_score_sde)
    change_weights(file, lambda t: t.update({"module.all_modules.7.NIN_1.W": torch.zeros(16, 8)}))
    with pytest.raises(ValueError, match=r"all_modules.7.NIN_0.W.* must have one shape"):
        ask(load_score_sde, file, config)


@pytest.mark.parametrize(
    "call, error, match",
    [
        (
            lambda folder: load_edm(folder / "no", config=config_of()),
            FileNotFoundError,
            "no does not exist",
        ),
        (
            lambda folder: load_edm(folder / "no", config={"channels": 3, "size": 5}),
            ValueError,
            "size must be a mult",
        ),
        (lambda folder: load_edm(folder / "no", config={"size": 32}), TypeError, "channels"),
        (
            lambda folder: load_score_sde(folder / "no", config=config_of(), sde="edm"),
            ValueError,
            "sde must be one of 'vp', 'subvp', 've'; got 'edm'",
        ),
        (
            lambda folder: load_score_sde(folder / "no", config=config_of(), sde="ve"),
            ValueError,
            "embedding must be 'fourier' for sde 've'; got 'positional'",
        ),
        (
            lambda folder: ScoreSDEDenoiser(SongUNet(**config_of(embedding="fourier")), "vp"),
            ValueError,
            "embedding must be 'positional' for sde 'vp'; got 'fourier'",
        ),
        (lambda folder: ScoreSDEDenoiser(UNet(1, 8), "vp"), TypeError, "network must be a SongUNet"),
        (
            lambda folder: ScoreSDEDenoiser(SongUNet(**config_of()), "vp", sigma_data=0.0),
            ValueError,
            "sigma_data must be a finite number > 0",
        ),
    ],
)
def test_refusals(call, error, match, tmp_path):
    with pytest.raises(error, match=match):
        call(tmp_path)
