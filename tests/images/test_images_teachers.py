"""diffusers model directories as teachers: D is what the scheduler makes of the model; students start as the solver."""

import json
import math
import subprocess
import sys

import pytest

pytest.importorskip("diffusers")

import diffusers
import huggingface_hub
import torch
from images_tiny import SKIPS, change_json, change_weights, normal, path_average_samples, save_pipeline, tiny_unet
from shaken_students import shaken

from sdesig.images import DiffusersDenoiser, DiffusersUNet, load_teacher
from sdesig.images.teachers import TABLES
from sdesig.sampling import GaussianReference, PathSpace
from sdesig.sigdeg import SigDEG, UNet

BETAS = {
    "linear": {"beta_schedule": "linear"},
    "scaled linear": {"beta_schedule": "scaled_linear", "beta_start": 0.0015, "beta_end": 0.0195},
    "cosine": {"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 200},
    "trained": {"trained_betas": [0.01, 0.05, 0.1, 0.2, 0.5], "num_train_timesteps": 5},
    "zero terminal SNR": {"rescale_betas_zero_snr": True, "set_alpha_to_one": False},
}
PREDICTIONS = ("epsilon", "v_prediction", "sample")


def saved(folder, scheduler, **changes):
    return save_pipeline(folder, tiny_unet(**changes), scheduler)


def ddpm(**options):
    return diffusers.DDPMScheduler(**{"clip_sample": False, **options})


def relative(found, expected):
    """Largest difference, by the size of each row."""
    return ((found - expected).flatten(1).norm(dim=1) / expected.flatten(1).norm(dim=1)).max().item()


# --- the denoiser is the scheduler's ---------------------------------------------------------------------------------


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("betas", BETAS.values(), ids=BETAS.keys())
def test_it_agrees_with_the_schedulers_own_estimate(betas, prediction, tmp_path):
    """`pred_original_sample` at whole timesteps, the model in float64: to 1e-6, the scheduler's tables are float32."""
    scheduler = diffusers.DDIMScheduler(clip_sample=False, prediction_type=prediction, **betas)
    teacher = load_teacher(saved(tmp_path, scheduler)).double()
    unet, table = tiny_unet().double(), scheduler.alphas_cumprod.double()
    last = len(table) - (2 if betas.get("rescale_betas_zero_snr") else 1)
    timesteps = sorted({0, 1, last // 3, last - 1, last})
    x = normal(len(timesteps), 1, 8, 8).double()
    a = table[timesteps]
    snr = a / (1 - a)
    y = (a.sqrt() / (1 - a)).reshape(-1, 1, 1, 1) * x
    scheduler.set_timesteps(len(table))
    expected = []
    for k, t in enumerate(timesteps):
        output = unet(x[k : k + 1], t).sample
        estimate = scheduler.step(output, t, x[k : k + 1]).pred_original_sample
        assert relative(teacher(y[k : k + 1], snr[k]), estimate) < 1e-6
        expected.append(estimate)
    assert relative(teacher(y, snr), torch.cat(expected)) < 1e-6
    assert teacher.snr == pytest.approx((snr[-1].item(), snr[0].item()), rel=1e-12)


@pytest.mark.parametrize("name", TABLES)
def test_every_scheduler_with_betas_gives_its_table(name, tmp_path):
    scheduler = getattr(diffusers, name)(beta_schedule="linear", beta_start=1e-4, beta_end=0.02, num_train_timesteps=50)
    diffusion = load_teacher(saved(tmp_path, scheduler)).diffusion
    t = torch.arange(50, dtype=torch.float64)
    torch.testing.assert_close(diffusion.alpha(t), scheduler.alphas_cumprod.double().sqrt(), rtol=1e-13, atol=0)


def test_it_agrees_with_a_scheduler_that_scales_its_states(tmp_path):
    """Euler's states are x/alpha."""
    scheduler = diffusers.EulerDiscreteScheduler(prediction_type="v_prediction")
    teacher = load_teacher(saved(tmp_path, scheduler)).double()
    scheduler.set_timesteps(1000)
    for k in (1, 400, 900):
        t, sigma = scheduler.timesteps[k], scheduler.sigmas[k].double()
        assert t == int(t)
        scheduler._step_index = k
        z = normal(2, 1, 8, 8).double() * sigma
        output = tiny_unet().double()(scheduler.scale_model_input(z, t), t).sample
        scheduler._step_index = k
        assert relative(teacher(z / sigma**2, sigma**-2), scheduler.step(output, t, z).pred_original_sample) < 1e-5


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("name", ["EDMEulerScheduler", "EDMDPMSolverMultistepScheduler"])
def test_edm_is_preconditioned_as_by_the_scheduler(name, prediction, tmp_path):
    scheduler = getattr(diffusers, name)(prediction_type=prediction, sigma_data=0.7, sigma_min=0.01, sigma_max=40.0)
    teacher = load_teacher(saved(tmp_path, scheduler)).double()
    assert teacher.sigma_data == 0.7
    assert teacher.snr == pytest.approx((40.0**-2, 0.01**-2))
    for sigma in (0.01, 0.6, 40.0):
        x = normal(2, 1, 8, 8).double() * (1 + sigma)
        noise = scheduler.precondition_noise(torch.tensor(sigma, dtype=torch.float64))
        output = tiny_unet().double()(scheduler.precondition_inputs(x, sigma), noise).sample
        expected = scheduler.precondition_outputs(x, output, sigma)
        assert relative(teacher(x / sigma**2, sigma**-2), expected) < 1e-9
    assert load_teacher(tmp_path, sigma_data=0.3).sigma_data == 0.3


def test_a_score_model_is_asked_in_the_units_of_its_pipeline(tmp_path):
    """Those are [0, 1], the teacher's [-1, 1]. The score is read off the scheduler's predictor step."""
    scheduler = diffusers.ScoreSdeVeScheduler(num_train_timesteps=20, sigma_min=0.02, sigma_max=30.0)
    teacher = load_teacher(saved(tmp_path, scheduler, **SKIPS)).double()
    unet = tiny_unet(**SKIPS).double()
    assert teacher.event == (3, 8, 8)
    assert teacher.snr == pytest.approx((60.0**-2, 0.04**-2))
    sigmas = scheduler.discrete_sigmas.double()
    for k in (0, 7, 19):
        z = normal(2, 3, 8, 8).double() * sigmas[k] + 0.5
        output = unet(z, sigmas[k]).sample
        step = scheduler.step_pred(output, k / 19 + 1e-6, z, generator=torch.Generator().manual_seed(0))
        before = sigmas[k - 1] if k else 0.0
        score = (step.prev_sample_mean - z) / (sigmas[k] ** 2 - before**2)
        expected = 2 * (z + sigmas[k] ** 2 * score) - 1
        sigma = 2 * sigmas[k]
        assert relative(teacher((2 * z - 1) / sigma**2, sigma**-2), expected) < 1e-5


def test_published_layouts_load(tmp_path):
    """google/ddpm-cifar10-32: both configurations in one folder, its blocks and embedding, and attention layers by the
    names that they once had."""
    unet = tiny_unet(
        sample_size=32,
        in_channels=3,
        out_channels=3,
        block_out_channels=(8, 16, 16, 16),
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        layers_per_block=2,
        attention_head_dim=None,
        flip_sin_to_cos=False,
        freq_shift=1,
        downsample_padding=0,
        norm_eps=1e-6,
    )
    scheduler = ddpm(variance_type="fixed_large")
    unet.save_pretrained(tmp_path)
    scheduler.save_pretrained(tmp_path)
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def rename(tensors):
        for name in list(tensors):
            for new, before in old.items():
                if f".{new}." in name:
                    tensors[name.replace(f".{new}.", f".{before}.")] = tensors.pop(name)

    change_weights(tmp_path / "diffusion_pytorch_model.safetensors", rename)
    teacher = load_teacher(tmp_path)
    assert teacher.event == (3, 32, 32)
    weights = teacher.network.unet.state_dict()
    assert weights.keys() == unet.state_dict().keys()
    assert all(torch.equal(weights[name], value) for name, value in unet.state_dict().items())
    a, x = scheduler.alphas_cumprod[300], normal(2, 3, 32, 32)
    expected = scheduler.step(unet(x, 300).sample, 300, x, generator=torch.Generator()).pred_original_sample
    assert relative(teacher(a.sqrt() / (1 - a) * x, (a / (1 - a)).item()), expected) < 1e-4


def test_variances_are_left_out(tmp_path):
    scheduler = ddpm(variance_type="learned_range")
    teacher = load_teacher(saved(tmp_path, scheduler, out_channels=2))
    x, a = normal(2, 1, 8, 8), scheduler.alphas_cumprod[500]
    output = tiny_unet(out_channels=2)(x, 500).sample
    expected = scheduler.step(output, 500, x, generator=torch.Generator()).pred_original_sample
    assert relative(teacher(a.sqrt() / (1 - a) * x, (a / (1 - a)).item()), expected) < 1e-4


def test_labels(tmp_path):
    folder = saved(tmp_path, ddpm(), num_class_embeds=4)
    y, labels = normal(3, 1, 8, 8), torch.tensor([2, 0, 2])
    values = load_teacher(folder)(y, 0.7, labels)
    two = load_teacher(folder, label=2)(y, 0.7)
    assert torch.equal(values[[0, 2]], two[[0, 2]])
    assert (values[1] - two[1]).abs().max() > 1e-3
    with pytest.raises(ValueError, match="labels must be given"):
        load_teacher(folder)(y, 0.7)


def test_half_precision_weights_become_float32(tmp_path):
    save_pipeline(tmp_path, tiny_unet().half(), ddpm())
    teacher = load_teacher(tmp_path)
    assert {p.dtype for p in teacher.parameters()} == {torch.float32}
    assert not teacher.training
    assert teacher.sigma_data == 0.5


# --- students --------------------------------------------------------------------------------------------------------


DATA = 0.4 * normal(40, 1, 8, 8, seed=9) + normal(40, 1, 1, 1, seed=8)
TEACHERS = {
    "epsilon": (lambda: ddpm(), {}),
    "v, cosine, one class": (
        lambda: ddpm(prediction_type="v_prediction", beta_schedule="squaredcos_cap_v2"),
        {"num_class_embeds": 3},
    ),
    "sample": (lambda: ddpm(prediction_type="sample"), {"out_channels": 2}),
    "EDM": (lambda: diffusers.EDMEulerScheduler(sigma_data=0.6), {}),
    "EDM, v": (lambda: diffusers.EDMEulerScheduler(prediction_type="v_prediction"), {"center_input_sample": True}),
    "score": (lambda: diffusers.ScoreSdeVeScheduler(), SKIPS),
}


def teacher_of(kind, folder):
    scheduler, changes = TEACHERS[kind]
    return load_teacher(saved(folder, scheduler(), **changes), label=1 if "num_class_embeds" in changes else None)


def student_of(teacher, depth=2, kind="scalar", event=None, **options):
    reference = GaussianReference.fit(DATA.expand(-1, teacher.event[0], -1, -1), kind)
    space = PathSpace(event or teacher.event, (0.02, 200.0), reference, cells=2**6, depth=4)
    return SigDEG.from_teacher(teacher, space, depth=depth, **options)


@pytest.mark.parametrize("depth, reference", [(2, "scalar"), (4, "dct")])
@pytest.mark.parametrize("kind", TEACHERS)
def test_a_student_starts_as_the_path_average_scheme(kind, depth, reference, tmp_path):
    teacher = teacher_of(kind, tmp_path)
    student = student_of(teacher, depth, reference)
    expected = path_average_samples(teacher, student, 3, 6)
    assert relative(student.sample(3, 6).values, expected) < 1e-4


@pytest.mark.parametrize("cell", ["solver", "plain"])
@pytest.mark.parametrize("kind", TEACHERS)
def test_students_save_and_load(kind, cell, tmp_path):
    """To the bit; sigma_data of the student's inputs need not be the teacher's."""
    student = shaken(student_of(teacher_of(kind, tmp_path / "teacher"), cell=cell, sigma_data=0.9), 0.05)
    student.save(tmp_path / "student")
    loaded = SigDEG.load(tmp_path / "student")
    values = student.eval().sample(3, 4).values
    assert torch.equal(loaded.sample(3, 4).values, values)
    untrained = student_of(teacher_of(kind, tmp_path / "teacher"), cell=cell, sigma_data=0.9)
    assert relative(untrained.sample(3, 4).values, values) > 1e-3


def test_a_students_gradients_reach_all_that_it_learns(tmp_path):
    student = student_of(teacher_of("epsilon", tmp_path), 3)
    student.cell.set_trainable()
    path = student.space.paths(2)
    times = path.grid(3)
    u = student.sde.start(path.initial_noise(), times[0])
    memory = student.cell.start(student.sde, times[0], u)
    noise = tuple(values[0] for values in student.cell.noise("additive", path.partial_signatures(times)))
    student.cell.advance(student.sde, times[0], times[1], u, memory, noise)[0].square().sum().backward()
    learned = {name: p for name, p in student.named_parameters() if p.requires_grad}
    assert all(p.grad is not None for p in learned.values())
    assert not any(".base." in name for name in learned)
    new = [p for p in student.cell.denoiser.change if p.shape[1:] == (4, 3, 3)]
    assert any((p.grad != 0).any() for p in new)


UNKNOWN = """
import sys
from sdesig.sigdeg import SigDEG
try:
    SigDEG.load(sys.argv[1])
except ValueError as error:
    print(error)
import sdesig.images
assert "diffusers" not in sys.modules
"""


def test_without_the_import_the_error_says_so(tmp_path):
    student_of(teacher_of("epsilon", tmp_path / "teacher")).save(tmp_path / "student")
    command = [sys.executable, "-c", UNKNOWN, tmp_path / "student"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    assert "kind of network must be one of 'mlp', 'unet'; got 'unet2d'" in done.stdout
    assert "known after `import sdesig.images`, which needs the extra 'images'" in done.stdout


# --- refusals --------------------------------------------------------------------------------------------------------


def test_snrs_beyond_the_table_are_refused(tmp_path):
    teacher = teacher_of("epsilon", tmp_path)
    low, high = teacher.snr
    assert math.isfinite(high)
    for snr in (low / 2, high * 2):
        with pytest.raises(ValueError, match=r"snr must be in \[4.03\d*e-05, 999\d\.\d*\], the range"):
            teacher(normal(1, 1, 8, 8), snr)
    assert teacher(normal(1, 1, 8, 8), low).isfinite().all()


def test_other_shapes_are_refused(tmp_path):
    teacher = teacher_of("epsilon", tmp_path)
    for event in ((3, 8, 8), (1, 16, 16)):
        with pytest.raises(ValueError, match=r"x must have shape \(batch, 1, 8, 8\); got"):
            teacher(normal(2, *event), 1.0)
        with pytest.raises(ValueError, match=r"space must have the teacher's event, \(1, 8, 8\); it has"):
            SigDEG.from_teacher(teacher, PathSpace(event, (0.02, 200.0), GaussianReference(0.0, 0.5), depth=4), depth=2)


def test_a_student_has_one_label(tmp_path):
    teacher = load_teacher(saved(tmp_path, ddpm(), num_class_embeds=4))
    with pytest.raises(ValueError, match="label must be given for a student"):
        student_of(teacher)


def scheduler_config(**changes):
    return {**ddpm().config, "_class_name": "DDPMScheduler", **changes}


def denoiser(**changes):
    return DiffusersDenoiser(DiffusersUNet(tiny_unet()), scheduler_config(**changes))


@pytest.mark.parametrize(
    "call, error, match",
    [
        (
            lambda: denoiser(_class_name="FlowMatchEulerDiscreteScheduler"),
            ValueError,
            "scheduler must be one of DDPMScheduler, .*; got 'FlowMatchEulerDiscreteScheduler'.*CanonicalDenoiser",
        ),
        (lambda: denoiser(_class_name="LCMScheduler"), ValueError, "scheduler must be one of .*; got 'LCMScheduler'"),
        (lambda: denoiser(_class_name=None), ValueError, "scheduler must be one of .*; got None"),
        (
            lambda: denoiser(prediction_type="flow_prediction"),
            ValueError,
            "prediction_type of the DDPMScheduler must be one of 'epsilon', .*; got 'flow_prediction'",
        ),
        (
            lambda: denoiser(_class_name="EDMEulerScheduler", prediction_type="sample"),
            ValueError,
            "prediction_type of the EDMEulerScheduler must be one of 'epsilon', 'v_prediction'; got 'sample'",
        ),
        (
            lambda: denoiser(_class_name="DPMSolverMultistepScheduler", use_flow_sigmas=True),
            ValueError,
            "the configuration of the DPMSolverMultistepScheduler must have use_flow_sigmas=False",
        ),
        (
            lambda: denoiser(_class_name="EulerDiscreteScheduler", timestep_type="continuous"),
            ValueError,
            "the configuration of the EulerDiscreteScheduler must have timestep_type='discrete'",
        ),
        (
            lambda: denoiser(_class_name="DDIMScheduler", snr_shift_scale=3.0),  # left by a CogVideoXDDIMScheduler
            ValueError,
            "the configuration of the DDIMScheduler must have snr_shift_scale=1.0, .* got 3.0",
        ),
        (
            lambda: denoiser(beta_schedule="quadratic"),
            ValueError,
            "configuration of the DDPMScheduler is not supported: quadratic is not implemented",
        ),
        (lambda: denoiser(trained_betas=[0.1, -0.5, 0.1]), ValueError, "alphas_cumprod must be .*; entry 1"),
        (lambda: denoiser(trained_betas="none"), ValueError, "configuration of the DDPMScheduler is not supported"),
        (
            lambda: DiffusersDenoiser(DiffusersUNet(tiny_unet(**SKIPS)), scheduler_config()),
            ValueError,
            "DDPMScheduler needs a UNet with time_embedding_type 'positional'",
        ),
        (lambda: DiffusersDenoiser(UNet(1, 8), scheduler_config()), TypeError, "network must be a DiffusersUNet"),
        (
            lambda: DiffusersDenoiser(DiffusersUNet(tiny_unet()), scheduler_config(), sigma_data=0.0),
            ValueError,
            "sigma_data must be a finite number > 0",
        ),
    ],
)
def test_unsupported_schedules_are_refused(call, error, match):
    with pytest.raises(error, match=match):
        call()


UNET = "unet/diffusion_pytorch_model.safetensors"


def truncate(folder):
    whole = (folder / UNET).read_bytes()
    (folder / UNET).write_bytes(whole[: len(whole) // 2])


def pickle_instead(folder):
    torch.save(tiny_unet().state_dict(), folder / "unet/diffusion_pytorch_model.bin")
    (folder / UNET).unlink()


def bare_folder(folder):
    for name in ("unet", "scheduler"):
        for file in (folder / name).iterdir():
            file.unlink()
        (folder / name).rmdir()


WEIGHT = "mid_block.resnets.0.conv1.weight"


@pytest.mark.parametrize(
    "spoil, error, match",
    [
        (truncate, ValueError, "model.safetensors is not a complete safetensors file"),
        (
            lambda folder: torch.save(tiny_unet().state_dict(), folder / UNET),
            ValueError,
            "not a complete safetensors file .*pickles are not loaded",
        ),
        (
            pickle_instead,
            ValueError,
            r"no \*.safetensors weights, only diffusion_pytorch_model.bin. Pickles are never loaded.*save_pretrained",
        ),
        (lambda folder: (folder / UNET).unlink(), FileNotFoundError, r"unet has no \*.safetensors weights"),
        (
            lambda folder: (folder / UNET).rename(folder / "unet/other.safetensors"),
            ValueError,
            "unet cannot be loaded as a UNet2DModel: .*diffusion_pytorch_model.safetensors",
        ),
        (
            lambda folder: change_weights(folder / UNET, lambda t: t[WEIGHT].view(-1)[3].fill_(math.nan)),
            ValueError,
            f"unet: {WEIGHT} is not finite",
        ),
        (
            lambda folder: change_weights(folder / UNET, lambda t: t[WEIGHT].view(-1)[3].fill_(-math.inf)),
            ValueError,
            f"unet: {WEIGHT} is not finite",
        ),
        (
            lambda folder: change_weights(folder / UNET, lambda t: t.pop(WEIGHT)),
            ValueError,
            f"do not fit its config.json; missing: .*{WEIGHT}",
        ),
        (
            lambda folder: change_weights(folder / UNET, lambda t: t.update(more=torch.zeros(1))),
            ValueError,
            "do not fit its config.json; unexpected: .*more",
        ),
        (
            lambda folder: change_json(folder / "unet/config.json", block_out_channels=[16, 16]),
            ValueError,
            "unet cannot be loaded as a UNet2DModel: .*",
        ),
        (
            lambda folder: change_json(folder / "unet/config.json", _class_name="UNet2DConditionModel"),
            ValueError,
            "_class_name in .*config.json must be one of 'UNet2DModel'; got 'UNet2DConditionModel'",
        ),
        (
            lambda folder: change_json(folder / "unet/config.json", down_block_types=["Nothing"] * 2),
            ValueError,
            "unet cannot be loaded as a UNet2DModel: .*Nothing",
        ),
        (lambda folder: (folder / "unet/config.json").write_text("{"), ValueError, "config.json is not JSON"),
        (lambda folder: (folder / "unet/config.json").unlink(), FileNotFoundError, "config.json does not exist"),
        (
            lambda folder: (folder / "scheduler/scheduler_config.json").unlink(),
            FileNotFoundError,
            "scheduler_config.json does not exist",
        ),
        (bare_folder, FileNotFoundError, "_config.json does not exist; a diffusers model has config.json and"),
    ],
)
def test_broken_files_are_refused(spoil, error, match, tmp_path):
    folder = saved(tmp_path, ddpm())
    spoil(folder)
    with pytest.raises(error, match=match):
        load_teacher(folder)


def no_hub(*args, **options):
    raise AssertionError("the network was used")


def test_only_ids_of_models_go_to_the_hub(tmp_path, monkeypatch):
    folder = saved(tmp_path / "models", ddpm())
    asked = []

    def hub(name, *, allow_patterns, ignore_patterns):
        asked.append(name)
        assert not any(pattern in "".join(allow_patterns) for pattern in ("bin", "ckpt", "pt"))
        return str(folder)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub)
    assert load_teacher("google/ddpm-tiny").event == (1, 8, 8)
    assert asked == ["google/ddpm-tiny"]
    monkeypatch.setattr(huggingface_hub, "snapshot_download", no_hub)
    assert load_teacher("models").event == (1, 8, 8)
    for source in (
        tmp_path / "none",
        str(tmp_path / "none"),
        "none",
        "./no/ne",
        "../ne",
        "~/ne",
        "models/none",
        "a/b/c",
    ):
        with pytest.raises(FileNotFoundError, match="is not a folder, nor the id of a model"):
            load_teacher(source)
    (tmp_path / "file").mkdir()
    (tmp_path / "file" / "model.bin").write_text("")
    with pytest.raises(FileNotFoundError, match=r"model\.bin is not a folder"):
        load_teacher("file/model.bin")


def test_a_saved_student_tells_its_schedule(tmp_path):
    student = student_of(teacher_of("v, cosine, one class", tmp_path / "teacher"))
    student.save(tmp_path / "student")
    config = json.loads((tmp_path / "student" / "config.json").read_text())
    assert config["denoiser"]["kind"] == "diffusers"
    assert config["denoiser"]["scheduler"]["prediction_type"] == "v_prediction"
    assert config["network"]["label"] == 1
    change_json(tmp_path / "student" / "config.json", denoiser={"kind": "ddpm"})
    with pytest.raises(ValueError, match="kind of denoiser must be one of 'edm'; got 'ddpm'"):
        SigDEG.load(tmp_path / "student")


def test_a_denoiser_without_memory_has_its_table():
    """Made on the device "meta", to compare it with the weights in a file before anything is allocated."""
    with torch.device("meta"):
        made = denoiser()
    assert {parameter.device.type for parameter in made.parameters()} == {"meta"}
    assert made.snr == denoiser().snr
