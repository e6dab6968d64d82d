"""Image models on a device: teachers, the scheduler, the pipeline and latents."""

import pytest

pytest.importorskip("diffusers")

import diffusers
import torch
from test_devices_reports import EVENT, SNR, reference_of, student_of, teacher_on, values

from sdesig.images import PathAverageScheduler, SigDEGPipeline, load_autoencoder, load_teacher, peer_samples

BLOCKS = {"block_out_channels": (8,), "norm_num_groups": 4, "layers_per_block": 1}


def diffusers_unet(channels=1):
    torch.manual_seed(0)
    kinds = {"down_block_types": ("AttnDownBlock2D",), "up_block_types": ("AttnUpBlock2D",), "attention_head_dim": 4}
    return diffusers.UNet2DModel(sample_size=8, in_channels=channels, out_channels=channels, **BLOCKS, **kinds).eval()


@pytest.fixture(scope="module")
def latent_model(tmp_path_factory):
    """Images (3, 8, 8), latents (4, 8, 8)."""
    folder = tmp_path_factory.mktemp("latent")
    torch.manual_seed(0)
    diffusers.AutoencoderKL(in_channels=3, out_channels=3, latent_channels=4, **BLOCKS).save_pretrained(folder / "vae")
    diffusers_unet(4).save_pretrained(folder / "unet")
    diffusers.DDPMScheduler().save_pretrained(folder / "scheduler")
    return folder


# --- teachers and latents --------------------------------------------------------------------------------------------


def test_a_model_of_diffusers(agrees, latent_model):
    def compute(device):
        teacher = load_teacher(latent_model, device=device)
        student = student_of(teacher, (4, 8, 8)).to(device)
        y = 3 * values(2, 4, 8, 8).to(device)
        snrs = torch.tensor(1.0, dtype=torch.float64), torch.tensor([0.5, 2.0], device=device)
        return [teacher(y, snr) for snr in snrs] + [student.sample(range(2), 2)]

    agrees(compute, rtol=1e-3, atol=1e-4)


def test_latents(agrees, latent_model):
    def compute(device):
        autoencoder = load_autoencoder(latent_model, device=device)
        images = values(3, 3, 8, 8).to(device)
        drawn = autoencoder.encode(images, torch.Generator(device).manual_seed(0), batch=2)
        return autoencoder.encode(images), autoencoder.decode(values(3, 4, 8, 8).to(device), batch=2), drawn

    agrees(compute, rtol=1e-3, atol=1e-4, draws=True)


# --- scheduler and pipelines -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_the_scheduler(agrees, eta, prediction):
    def compute(device):
        scheduler = PathAverageScheduler(eta=eta, prediction_type=prediction)
        scheduler.set_timesteps(3, device=device)
        x, generator = values(2, *EVENT).to(device), torch.Generator(device).manual_seed(0)
        for t in scheduler.timesteps:
            x = scheduler.step((0.1 * x).tanh(), t, x, generator=generator).prev_sample
        return x, scheduler.add_noise(x, x, torch.tensor([10, 500], device=device))

    agrees(compute, rtol=1e-3, atol=1e-4, draws=True)


@pytest.mark.parametrize("kind", ["scalar", "coordinates", "dct"])
def test_the_scheduler_with_a_reference(agrees, tmp_path, kind):
    reference_of(kind, "cpu").save(tmp_path / "reference.safetensors")

    def compute(device):
        scheduler = PathAverageScheduler(reference_file=str(tmp_path / "reference.safetensors"))
        scheduler.set_timesteps(3, device=device)
        x, generators = values(2, *EVENT).to(device), [torch.Generator(device).manual_seed(k) for k in (0, 1)]
        for t in scheduler.timesteps:
            x = scheduler.step((0.1 * x).tanh(), t, x, generator=generators).prev_sample
        return x

    agrees(compute, rtol=1e-3, atol=1e-4, draws=True)


def test_a_pipeline_of_diffusers_with_the_scheduler(agrees):
    def compute(device):
        pipe = diffusers.DDPMPipeline(diffusers_unet(), PathAverageScheduler()).to(device)
        pipe.set_progress_bar_config(disable=True)
        seeds = torch.Generator("cpu").manual_seed(0)
        images = pipe(2, generator=seeds, num_inference_steps=2, output_type="np").images
        return torch.from_numpy(images)

    agrees(compute, rtol=1e-3, atol=1e-3, stays=False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_pipeline(agrees, dtype):
    def compute(device):
        pipe = SigDEGPipeline(student_of(teacher_on("cpu"))).to(device, dtype)
        pipe.set_progress_bar_config(disable=True)
        assert pipe.device.type == device
        run = {"num_inference_steps": 2}
        seen = []

        def look(pipe, step, t, tensors):
            seen.append(tensors["latents"])

        found = [pipe(seeds=[3, 4], output_type="pt", callback_on_step_end=look, **run).images, *seen]
        drawn = pipe(2, generator=torch.Generator(device).manual_seed(0), output_type="latent", **run).images
        assert pipe(seeds=[3], **run).images[0].size == (8, 8)
        assert pipe(seeds=[3], output_type="np", **run).images.shape == (1, 8, 8, 1)
        return [*found, drawn]

    tolerance = 1e-4 if dtype == torch.float32 else 2e-2
    agrees(compute, rtol=tolerance, atol=10 * tolerance, draws=True)


def test_the_pipeline_of_a_latent_model(agrees, latent_model, tmp_path):
    def compute(device):
        vae = load_autoencoder(latent_model).model
        student = student_of(load_teacher(latent_model), (4, 8, 8))
        SigDEGPipeline(student, vae=vae).save_pretrained(tmp_path / device)
        pipe = SigDEGPipeline.from_pretrained(tmp_path / device).to(device)
        pipe.set_progress_bar_config(disable=True)
        return pipe(seeds=[3, 4], num_inference_steps=2, output_type="pt").images

    agrees(compute, rtol=1e-3, atol=1e-3)


def test_samples_of_other_samplers(agrees):
    def compute(device):
        y = 0.1 * values(2, *EVENT).to(device)
        return peer_samples(teacher_on(device), y, 3, snr=SNR)

    agrees(compute, rtol=1e-3, atol=1e-3)
