"""`SigDEGPipeline`: images are the generator's own, files come back to the bit, the card says what was measured."""

import inspect
import json
import shutil
from dataclasses import asdict
from types import SimpleNamespace

import pytest

pytest.importorskip("diffusers")

import diffusers
import numpy as np
import torch
import yaml
from images_tiny import change_json, seeded, tiny_unet
from test_images_latent import gaussian
from test_images_student import diffusers_denoiser, our_unet, song, student_of

from sdesig.evaluation.metrics import Measured
from sdesig.evaluation.pixels import to_uint8
from sdesig.images import PathAverageScheduler, SigDEGPipeline, pipeline_files
from sdesig.sampling import GaussianReference, PathSpace, SNRDenoiser
from sdesig.sigdeg import SigDEG

SEEDS = [7, 2**62 + 5, 0]
KINDS = {
    "diffusers, of low rank": lambda: student_of(diffusers_denoiser(tiny_unet()), rank=2),
    "ours": lambda: student_of(our_unet(8, widths=(8,))),
    "DDPM++": lambda: student_of(song(8)),
    "plain": lambda: student_of(our_unet(8, widths=(8,)), cell="plain"),
}


def colour():
    return student_of(diffusers_denoiser(tiny_unet(in_channels=3, out_channels=3)), 2)


def latent():
    """Of 4 x 8 x 8, decoded to 3 x 16 x 16."""
    return student_of(diffusers_denoiser(tiny_unet(in_channels=4, out_channels=4)), 2)


def quiet(*arguments, **options):
    pipe = SigDEGPipeline(*arguments, **options)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def generator():
    return seeded(KINDS["ours"](), scale=0.02)


@pytest.fixture
def pipe(generator):
    return quiet(generator)


# --- images ----------------------------------------------------------------------------------------------------------


def test_images_are_the_generators_own(generator, pipe):
    found = pipe(seeds=SEEDS, num_inference_steps=5, output_type="latent")
    assert isinstance(found, diffusers.ImagePipelineOutput)
    assert torch.equal(found.images, generator.sample(SEEDS, 5).values)
    by_default = pipe(seeds=SEEDS, output_type="latent", return_dict=False)
    assert isinstance(by_default, tuple)
    assert torch.equal(by_default[0], generator.sample(SEEDS, 10).values)


def test_an_image_is_a_function_of_its_seed():
    """Alone or in a batch, and nearly so at other numbers of steps: here for Gaussian data, by their exact denoiser."""
    teacher = our_unet(8, widths=(8,))
    teacher.network.zero_last()
    pipe = quiet(student_of(teacher, 2, "scalar"))
    together = pipe(3, seeds=SEEDS, num_inference_steps=8, output_type="latent").images
    for seed, image in zip(SEEDS, together, strict=True):
        alone = pipe(1, [seed], num_inference_steps=8, output_type="latent").images[0]
        torch.testing.assert_close(alone, image, rtol=1e-4, atol=1e-5)
    finer = pipe(seeds=SEEDS, num_inference_steps=32, output_type="latent").images
    apart = (together[:, None] - finer[None]).flatten(2).norm(dim=2)
    assert (10 * apart.diag() < apart[~torch.eye(3, dtype=bool)].min()).all()


def test_generators_draw_the_seeds(generator, pipe):
    def drawn(n, seed):
        return torch.randint(2**62, (n,), generator=torch.Generator().manual_seed(seed)).tolist()

    def images(*arguments, **options):
        return pipe(*arguments, num_inference_steps=2, output_type="latent", **options).images

    one = images(3, generator=torch.Generator().manual_seed(4))
    assert torch.equal(one, generator.sample(drawn(3, 4), 2).values)
    many = images(generator=[torch.Generator().manual_seed(k) for k in (5, 6)])
    assert torch.equal(many, generator.sample(drawn(1, 5) + drawn(1, 6), 2).values)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(8)
        by_default = images()
        again = images()
    assert torch.equal(by_default, generator.sample(drawn(2, 8)[:1], 2).values)
    assert torch.equal(again, generator.sample(drawn(2, 8)[1:], 2).values)


@pytest.mark.parametrize("make, mode", [(KINDS["ours"], "L"), (colour, "RGB")])
def test_output_types_are_one_image(make, mode):
    pipe = quiet(seeded(make(), scale=0.02))
    latent, pt, array, pictures = (
        pipe(seeds=SEEDS, num_inference_steps=2, output_type=kind).images for kind in ("latent", "pt", "np", "pil")
    )
    assert latent.abs().max() > 1  # something is clipped
    assert pt.dtype == torch.float32
    assert pt.shape == (3, len(mode), 8, 8)
    torch.testing.assert_close(2 * pt - 1, latent.clamp(-1, 1))
    assert array.dtype == np.float32
    assert np.array_equal(array, pt.numpy().transpose(0, 2, 3, 1))
    assert [picture.mode for picture in pictures] == [mode] * 3
    for picture, image in zip(pictures, array, strict=True):
        levels = np.asarray(picture).reshape(image.shape)
        assert np.abs(levels - 255.0 * image).max() < 0.5001
    expected = to_uint8(latent).permute(0, 2, 3, 1).numpy()
    assert np.array_equal(np.stack([np.asarray(picture) for picture in pictures]).reshape(expected.shape), expected)


def test_latents_are_decoded():
    """As Stable Diffusion's pipeline does: vae.decode(latents/scaling_factor)."""
    generator, vae = latent(), gaussian()
    pipe = quiet(generator, vae)
    latents = pipe(seeds=SEEDS, num_inference_steps=2, output_type="latent").images
    assert torch.equal(latents, generator.sample(SEEDS, 2).values)
    found = pipe(seeds=SEEDS, num_inference_steps=2, output_type="pt").images
    with torch.no_grad():
        expected = vae.decode(latents / vae.config.scaling_factor).sample
    torch.testing.assert_close(found, (expected / 2 + 0.5).clamp(0, 1), rtol=1e-4, atol=1e-5)
    assert not found.requires_grad
    assert pipe(seeds=[1], num_inference_steps=1).images[0].size == (16, 16)


def test_bfloat16_is_of_the_networks_alone():
    generator, vae = seeded(latent(), scale=0.02), gaussian()
    pipe = quiet(generator, vae)
    draw = lambda: pipe(seeds=SEEDS, num_inference_steps=2, output_type="pt").images  # noqa: E731
    exact, before = draw(), {name: value.clone() for name, value in generator.state_dict().items()}
    assert pipe.dtype == torch.float32
    assert pipe.to(torch.bfloat16) is pipe
    assert (pipe.dtype, vae.dtype) == (torch.bfloat16, torch.bfloat16)
    assert all(value.dtype == before[name].dtype for name, value in generator.state_dict().items())
    rounded = draw()
    assert rounded.dtype == torch.float32
    assert 1e-4 < (rounded - exact).abs().max() < 0.2
    pipe.to("cpu", torch.float32)
    assert all(torch.equal(value, before[name]) for name, value in generator.state_dict().items())
    assert (pipe.device, pipe.dtype) == (torch.device("cpu"), torch.float32)
    assert (draw() - exact).abs().max() < 0.1  # the vae's weights are rounded


# --- progress --------------------------------------------------------------------------------------------------------


def test_progress_bar(generator, capsys):
    pipe = SigDEGPipeline(generator)
    pipe(seeds=[1], num_inference_steps=3)
    assert "3/3" in capsys.readouterr().err
    pipe.set_progress_bar_config(disable=True)
    pipe(seeds=[1], num_inference_steps=3)
    assert capsys.readouterr().err == ""


def test_callback_sees_every_step(generator, pipe):
    seen = []

    def callback(*arguments):
        seen.append(arguments)
        return arguments[3]

    images = pipe(seeds=SEEDS, num_inference_steps=4, output_type="latent", callback_on_step_end=callback).images
    assert [(owner, step, list(tensors)) for owner, step, _, tensors in seen] == [
        (pipe, step, ["latents"]) for step in range(4)
    ]
    times = generator.space.times(4)
    assert [snr.item() for _, _, snr, _ in seen] == times[1:].tolist()
    assert torch.equal(seen[-1][3]["latents"], images)
    states = []
    generator.sample(SEEDS, 4, callback=lambda _, snr, u: states.append(generator.sde.noisy_data(u, snr)))
    assert all(torch.equal(tensors["latents"], x) for (*_, tensors), x in zip(seen, states, strict=True))
    pipe(
        num_inference_steps=2,
        callback_on_step_end=lambda *arguments: seen.append(arguments),
        callback_on_step_end_tensor_inputs=[],
    )
    assert [arguments[3] for arguments in seen[4:]] == [{}, {}]


def test_a_callback_changes_nothing(generator, pipe):
    def spoil(owner, step, snr, tensors):
        tensors["latents"].zero_()

    images = pipe(seeds=SEEDS, num_inference_steps=4, output_type="latent", callback_on_step_end=spoil).images
    assert torch.equal(images, generator.sample(SEEDS, 4).values)
    for returned in ({"latents": torch.zeros(1)}, {"prompt_embeds": None}):
        with pytest.raises(ValueError, match="callback_on_step_end must not change latents"):
            pipe(callback_on_step_end=lambda *_, returned=returned: returned)


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_files_come_back_to_the_bit(kind, tmp_path):
    pipe = quiet(seeded(KINDS[kind](), scale=0.02))
    pipe.save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*")) == [
        *("README.md", "config.json", "generator", "model_index.json", "weights.safetensors")
    ]
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["_class_name"] == "SigDEGPipeline"
    assert index["generator"] == ["sdesig.sigdeg.sig_deg", "SigDEG"]
    loaded = SigDEGPipeline.from_pretrained(str(tmp_path))
    loaded.set_progress_bar_config(disable=True)
    assert loaded.components == {"generator": loaded.generator, "vae": None}
    before, after = pipe.generator.state_dict(), loaded.generator.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    draw = {"seeds": SEEDS, "num_inference_steps": 2, "output_type": "latent"}
    assert torch.equal(loaded(**draw).images, pipe(**draw).images)


def test_a_vae_and_results_come_back(tmp_path):
    pipe = quiet(latent(), gaussian(), results())
    pipe.save_pretrained(tmp_path)
    vae = diffusers.AutoencoderKL.from_pretrained(tmp_path / "vae").state_dict()
    assert all(torch.equal(vae[name], value) for name, value in pipe.vae.state_dict().items())
    loaded = SigDEGPipeline.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert loaded.dtype == loaded.vae.dtype == torch.bfloat16
    assert loaded.results == results()
    former = SigDEGPipeline.from_pretrained(tmp_path, torch_dtype=torch.float32)
    former.set_progress_bar_config(disable=True)
    draw = {"seeds": SEEDS, "num_inference_steps": 2, "output_type": "np"}
    assert np.abs(former(**draw).images - pipe(**draw).images).max() < 1e-5
    assert not former.vae.training


def test_saved_again_it_is_the_new_one(generator, tmp_path):
    """No vae and no results of the one that was there before."""
    quiet(latent(), gaussian(), results()).save_pretrained(tmp_path)
    quiet(generator).save_pretrained(tmp_path)
    loaded = SigDEGPipeline.from_pretrained(tmp_path)
    assert (loaded.vae, loaded.results, loaded.generator.space.event) == (None, [], (1, 8, 8))
    assert "## Measured" not in (tmp_path / "README.md").read_text()


@pytest.mark.parametrize("before", [False, True])
def test_a_save_that_breaks_off_leaves_nothing_that_loads(before, generator, tmp_path, monkeypatch):
    if before:
        quiet(latent(), gaussian()).save_pretrained(tmp_path)

    real = pipeline_files.replacing

    def full(file):
        if file.name == "model_index.json":
            raise OSError(28, "No space left on device")
        return real(file)

    monkeypatch.setattr(pipeline_files, "replacing", full)
    with pytest.raises(OSError, match="No space left"):
        quiet(generator).save_pretrained(tmp_path)
    assert (tmp_path / "generator" / "weights.safetensors").is_file()
    with pytest.raises(FileNotFoundError, match=r"has no model_index.json"):
        SigDEGPipeline.from_pretrained(tmp_path)


# --- the card --------------------------------------------------------------------------------------------------------


def measured(metric, value, ema=None, standard_error=None):
    number = Measured(metric, value, standard_error, 500, (3, 502), ema, "pixels", "ab" * 32, "cd" * 32)
    return json.loads(json.dumps(asdict(number)))


def results():
    row = {"depth": None, "pathwise_median": None, "floor": None, "n": 500, "seconds_per_1000": 12.5}
    return [
        {**row, "method": "converged", "steps": 64, "nfe": 64, "pathwise_rmse": None, "pathwise_rmse_se": None}
        | {"measured": [measured("Frechet (pixels)", 0.5), measured("kernel (pixels)", 0.0123, None, 0.0045)]},
        {**row, "method": "Sig-DEG", "steps": 10, "nfe": 10, "pathwise_rmse": 0.04321, "pathwise_rmse_se": 0.00123}
        | {"floor": 0.0207, "measured": [measured("Frechet (pixels)", 0.789, True)]},
    ]


def parts(text):
    """Metadata and text of a card."""
    _, metadata, rest = text.split("---\n", 2)
    return yaml.safe_load(metadata), rest


def table(text, first):
    """Rows of the table whose first title this is, as dictionaries."""
    lines = text[text.index(f"| {first} ") :].split("\n\n")[0].strip().splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [dict(zip(cells[0], row, strict=True)) for row in cells[2:]]


def test_the_card_has_the_measured_numbers(generator, tmp_path):
    quiet(generator, results=results()).save_pretrained(tmp_path / "mine")
    metadata, text = parts((tmp_path / "mine" / "README.md").read_text())
    assert metadata == {
        "tags": ["diffusers", "sig-deg", "distillation"],
        "library_name": "sdesig",
        "pipeline_tag": "unconditional-image-generation",
    }
    assert "No license is stated" in text
    assert f"{sum(p.numel() for p in generator.parameters()):,} parameters" in text
    assert table(text, "method") == [
        {
            **{"method": "converged", "steps": "64", "evaluations": "64", "pathwise RMSE": "-", "floor": "-"},
            **{"Frechet (pixels)": "0.5", "kernel (pixels)": "0.0123 +- 0.0045"},
            **{"seconds per 1000": "12.5", "samples": "500"},
        },
        {
            **{"method": "Sig-DEG", "steps": "10", "evaluations": "10", "pathwise RMSE": "0.0432 +- 0.0012"},
            **{"floor": "0.0207", "Frechet (pixels)": "0.789", "kernel (pixels)": "-"},
            **{"seconds per 1000": "12.5", "samples": "500"},
        },
    ]
    shared = {"features": f"pixels, sha256 {'ab' * 6}", "compared with": f"sha256 {'cd' * 6}", "samples": "500"}
    shared |= {"seeds": "3 to 502", "levels": "uint8"}
    assert table(text, "number") == [
        {**shared, "number": "Frechet (pixels)", "moving average": "-", "of": "converged"},
        {**shared, "number": "kernel (pixels)", "moving average": "-", "of": "converged"},
        {**shared, "number": "Frechet (pixels)", "moving average": "yes", "of": "Sig-DEG"},
    ]
    assert "law" not in text


def test_the_card_has_distances_to_the_teachers_own_law(generator, tmp_path):
    first, second = results()
    first |= {"seeds_changed": None, "seeds_changed_se": None}
    second |= {"seeds_changed": 0.125, "seeds_changed_se": 0.015}
    second["measured"].append(measured("FD-pixels to the law", 0.25, True, 0.05))
    quiet(generator, results=[first, second]).save_pretrained(tmp_path / "mine")
    text = (tmp_path / "mine" / "README.md").read_text()
    _, row = table(text, "method")
    assert (row["seeds changed"], row["FD-pixels to the law"]) == ("12.5 +- 1.5 %", "0.25 +- 0.05")
    assert "Seeds changed: the share" in text
    assert "To the law: to the teacher's own, which converged paths of other seeds stand for. Floor:" in text


def test_the_cards_code_runs(generator, tmp_path, monkeypatch):
    quiet(generator).save_pretrained(tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    code = (tmp_path / "mine" / "README.md").read_text().split("```")[1].removeprefix("python\n")
    assert len(code.strip().splitlines()) == 4  # one of them empty
    scope = {}
    exec(code, scope)
    expected = to_uint8(generator.sample(4, 10).values)[:, 0].numpy()
    assert np.array_equal(np.stack([np.asarray(image) for image in scope["images"]]), expected)


@pytest.mark.parametrize("text, kept", [("My own words.\n", True), ("\n", False)])
def test_a_card_that_is_there_keeps_metadata_and_words(generator, text, kept, tmp_path):
    card = tmp_path / "README.md"
    card.write_text(f"---\nlicense: mit\nlibrary_name: mine\ntags:\n- art\n---\n{text}")
    pipe = quiet(generator)
    pipe.save_pretrained(tmp_path)
    metadata, found = parts(card.read_text())
    assert (metadata["license"], metadata["library_name"]) == ("mit", "mine")
    assert metadata["tags"] == ["art", "diffusers", "sig-deg", "distillation"]
    assert (found == text) is kept
    assert ("# How" in found or "Sig-DEG" in found) is not kept
    assert "No license is stated" not in found
    before = card.read_text()
    pipe.save_pretrained(tmp_path)
    assert card.read_text() == before


def test_a_license_goes_along(generator, tmp_path):
    """From one folder to another, and from one pipeline to another."""
    quiet(generator, results=results()).save_pretrained(tmp_path / "theirs")
    card = tmp_path / "theirs" / "README.md"
    card.write_text(card.read_text().replace("---\n", "---\nlicense: mit\n", 1))
    loaded = SigDEGPipeline.from_pretrained(tmp_path / "theirs")
    for k, pipe in enumerate((loaded, SigDEGPipeline.from_pipe(loaded))):
        pipe.save_pretrained(tmp_path / str(k))
        metadata, text = parts((tmp_path / str(k) / "README.md").read_text())
        assert metadata["license"] == "mit"
        assert f'from_pretrained("{k}")' in text
        assert "No license is stated" not in text
        assert pipe.results == results()


# --- the hub ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub in a folder; `calls` are the options of what was asked of it."""
    calls = []

    class Api:
        def __init__(self, token=None):
            calls.append({"token": token})

        def create_repo(self, repo_id, **options):
            calls.append(options)
            return SimpleNamespace(repo_id=repo_id if "/" in repo_id else f"me/{repo_id}")

        def file_exists(self, repo_id, file):
            return (tmp_path / "hub" / repo_id / file).is_file()

        def hf_hub_download(self, repo_id, file):
            return str(tmp_path / "hub" / repo_id / file)

        def upload_folder(self, *, repo_id, folder_path, **options):
            calls.append(options)
            shutil.copytree(folder_path, tmp_path / "hub" / repo_id, dirs_exist_ok=True)
            return f"hub/{repo_id}"

    monkeypatch.setattr("sdesig.images.pipeline_files.HfApi", Api)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, **_: str(tmp_path / "hub" / name))
    return SimpleNamespace(folder=tmp_path / "hub", calls=calls)


def test_push_to_hub(hub, generator, pipe):
    options = {"commit_message": "mine", "private": True, "token": "a token", "create_pr": True}
    assert pipe.push_to_hub("owner/name", **options) == "hub/owner/name"
    assert hub.calls == [
        {"token": "a token"},
        {"private": True, "exist_ok": True},
        {"commit_message": "mine", "create_pr": True},
    ]
    card = hub.folder / "owner" / "name" / "README.md"
    assert 'from_pretrained("owner/name")' in card.read_text()
    loaded = SigDEGPipeline.from_pretrained("owner/name").generator
    assert torch.equal(loaded.sample(SEEDS, 2).values, generator.sample(SEEDS, 2).values)
    card.write_text(card.read_text().replace("---\n", "---\nlicense: mit\n", 1))
    quiet(generator, results=results()).push_to_hub("owner/name")
    metadata, text = parts(card.read_text())
    assert metadata["license"] == "mit"
    assert len(table(text, "method")) == 2


def test_options_of_the_hub(hub, pipe, monkeypatch):
    pipe.push_to_hub("owner/name")
    asked = {}

    def download(name, **options):
        asked.update(options)
        return str(hub.folder / name)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    options = {"revision": "v2", "token": "a token", "cache_dir": "here", "local_files_only": True}
    SigDEGPipeline.from_pretrained("owner/name", **options)
    assert asked.items() >= options.items()
    assert "*.safetensors" in asked["allow_patterns"]


def test_options_of_diffusers_work(hub, generator, pipe, tmp_path):
    """All that `DiffusionPipeline` takes, at what it stands for here."""
    pipe.save_pretrained(tmp_path / "a" / "in", True, None, None, False, False)
    pipe.save_pretrained(tmp_path / "b", safe_serialization=True, variant=None, max_shard_size=None)
    pipe.push_to_hub("owner/name", None, None, None, False, True, None, None)
    neutral = {"use_safetensors": True, "variant": None, "force_download": True, "low_cpu_mem_usage": True}
    neutral |= {"device_map": None, "proxies": None, "trust_remote_code": False, "local_files_only": None}
    for source, options in (
        (tmp_path / "a", {"subfolder": "in"}),
        (tmp_path / "b", neutral),
        ("owner/name", neutral),
    ):
        loaded = SigDEGPipeline.from_pretrained(source, **options)
        assert torch.equal(loaded.generator.sample(SEEDS, 2).values, generator.sample(SEEDS, 2).values)
    assert pipe.to("cpu", torch.float32, silence_dtype_warnings=True) is pipe
    other = seeded(KINDS["plain"](), scale=0.02)
    assert SigDEGPipeline.from_pretrained(tmp_path / "b", generator=other).generator is other
    quiet(latent(), gaussian()).save_pretrained(tmp_path / "c")
    vae = gaussian()
    assert SigDEGPipeline.from_pretrained(tmp_path / "c", vae=vae).vae is vae
    with pytest.raises(ValueError, match="or a vae"):
        SigDEGPipeline.from_pretrained(tmp_path / "c", vae=None)


def test_force_download_reaches_the_hub(hub, pipe, monkeypatch):
    pipe.push_to_hub("owner/name")
    asked = {}
    monkeypatch.setattr(
        "huggingface_hub.snapshot_download", lambda name, **options: asked.update(options) or str(hub.folder / name)
    )
    SigDEGPipeline.from_pretrained("owner/name", force_download=True)
    assert asked["force_download"] is True


def narrower(kind):
    """Methods of a class that lack a parameter which the overridden one has, or have them in another order."""
    for name, function in vars(kind).items():
        function = getattr(function, "__func__", function)
        base = next((vars(c)[name] for c in kind.__mro__[1:] if name in vars(c) and c is not object), None)
        base = getattr(base, "__func__", base)
        if name == "__init__" or not inspect.isfunction(function) or not inspect.isfunction(base):
            continue
        own, wanted = (inspect.signature(each).parameters.values() for each in (function, base))
        named = [p.name for p in own if p.kind is not p.KEYWORD_ONLY]
        by_place = [p.name for p in wanted if p.kind is p.POSITIONAL_OR_KEYWORD]
        if named[: len(by_place)] != by_place or (
            any(p.kind is p.VAR_KEYWORD for p in wanted)
            and not any(p.kind is p.VAR_KEYWORD for p in own)
            and not any(p.kind is p.VAR_POSITIONAL for p in wanted)
        ):
            yield name


def test_no_signature_is_narrower_than_the_one_it_overrides():
    assert not [*narrower(SigDEGPipeline)]
    assert not [*narrower(PathAverageScheduler)]


@pytest.mark.parametrize(
    "call, error, match",
    [
        (lambda p, f: p.save_pretrained(f, False), ValueError, "safe_serialization must be True: .*; got False"),
        (lambda p, f: p.save_pretrained(f, variant="fp16"), ValueError, "variant must be None: .*; got 'fp16'"),
        (lambda p, f: p.save_pretrained(f, max_shard_size="1GB"), ValueError, "max_shard_size must be None: .*'1GB'"),
        (lambda p, f: p.save_pretrained(f, use_flashpack=True), ValueError, "use_flashpack must be False: .*True"),
        (lambda p, f: p.save_pretrained(f, shards=2), TypeError, "save_pretrained takes no shards"),
        (lambda p, f: p.save_pretrained(f, push_to_hub=True, shards=2), TypeError, "save_pretrained takes no shards"),
        (lambda p, f: p.push_to_hub("a/b", variant="fp16"), ValueError, "variant must be None: .*; got 'fp16'"),
        (lambda p, f: p.push_to_hub("a/b", subfolder="x"), ValueError, "subfolder must be None: .*; got 'x'"),
        (lambda p, f: p.from_pretrained(f, use_safetensors=False), ValueError, "use_safetensors must be None or True"),
        (lambda p, f: p.from_pretrained(f, variant="fp16"), ValueError, "variant must be None: .*; got 'fp16'"),
        (lambda p, f: p.from_pretrained(f, device_map="auto"), ValueError, "device_map must be None: .*'auto'"),
        (lambda p, f: p.from_pretrained(f, shards=2), TypeError, "from_pretrained takes no shards"),
    ],
)
def test_options_of_diffusers_that_are_not_supported(call, error, match, pipe, tmp_path):
    with pytest.raises(error, match=match):
        call(pipe, tmp_path / "new")
    assert not [*tmp_path.iterdir()]


def test_save_and_push(hub, pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "some" / "mine", push_to_hub=True, private=False)
    assert 'from_pretrained("mine")' in (tmp_path / "some" / "mine" / "README.md").read_text()
    assert 'from_pretrained("me/mine")' in (hub.folder / "me" / "mine" / "README.md").read_text()
    pipe.save_pretrained(tmp_path / "some" / "mine", push_to_hub=True, repo_id="other/name")
    weights = "generator/weights.safetensors"
    pushed = [hub.folder / name / weights for name in ("me/mine", "other/name")]
    assert all(file.read_bytes() == (tmp_path / "some" / "mine" / weights).read_bytes() for file in pushed)


# --- refusals --------------------------------------------------------------------------------------------------------


def of_event(*event):
    space = PathSpace(event, (0.02, 50.0), GaussianReference(0.0, 0.5), depth=4)
    return SigDEG.from_teacher(SNRDenoiser(lambda y, snr: y / (1 + snr)), space, depth=2)


def broken(folder, spoil):
    quiet(latent(), gaussian(), results()).save_pretrained(folder)
    spoil(folder)
    return SigDEGPipeline.from_pretrained(folder)


def pickled(folder, name):
    """The weights of a component as a pickle, that runs code when it is loaded."""
    (file,) = (folder / name).glob("*.safetensors")
    torch.save({"weight": torch.zeros(1)}, file if name == "generator" else file.with_suffix(".bin"))
    if name == "vae":
        file.unlink()


def generators(n):
    return [torch.Generator() for _ in range(n)]


@pytest.mark.parametrize(
    "options, error, match",
    [
        ({"seeds": [1], "generator": torch.Generator()}, ValueError, "seeds and generator must not both be given"),
        (
            {"seeds": [1, 2], "batch_size": 1},
            ValueError,
            "batch_size must be >= 1 and the length of seeds, 2; got 1",
        ),
        ({"seeds": []}, ValueError, "batch_size must be >= 1 and the length of seeds, 0; got None"),
        ({"generator": generators(3), "batch_size": 2}, ValueError, "and the length of generator, 3; got 2"),
        ({"generator": []}, ValueError, "and the length of generator, 0; got None"),
        ({"batch_size": 0}, ValueError, "batch_size must be >= 1; got 0"),
        ({"batch_size": 1.0}, TypeError, "batch_size must be an integer; got 1.0"),
        ({"seeds": 3}, TypeError, "seeds must be a sequence of integers, one per image; got 3"),
        ({"seeds": [-1]}, ValueError, r"seeds must lie in \[0, 2\^63\); got -1"),
        ({"seeds": [0.5]}, TypeError, "seeds must be integers"),
        ({"generator": 3}, TypeError, "generator must be a torch.Generator; got 3"),
        ({"generator": [torch.Generator(), 3]}, TypeError, "generator must be a torch.Generator; got 3"),
        ({"num_inference_steps": 0}, ValueError, r"num_inference_steps must be in \[1, 64\]; got 0"),
        ({"num_inference_steps": 65}, ValueError, r"num_inference_steps must be in \[1, 64\]; got 65"),
        ({"num_inference_steps": 2.0}, TypeError, "num_inference_steps must be an integer; got 2.0"),
        ({"output_type": "png"}, ValueError, "output_type must be one of 'pil', 'np', 'pt', 'latent'; got 'png'"),
        (
            {"callback_on_step_end_tensor_inputs": ["noise"]},
            ValueError,
            "callback_on_step_end_tensor_inputs must be one of 'latents'; got 'noise'",
        ),
    ],
)
def test_calls_refused(options, error, match, pipe):
    with pytest.raises(error, match=match):
        pipe(**options)


@pytest.mark.parametrize(
    "call, error, match",
    [
        (lambda f: SigDEGPipeline(tiny_unet()), TypeError, "generator must be a SigDEG; got UNet2DModel"),
        (
            lambda f: SigDEGPipeline(of_event(2)),
            ValueError,
            r"generator must have events \(1 or 3, height, width\), or a vae; they are \(2,\)",
        ),
        (lambda f: SigDEGPipeline(latent()), ValueError, r"or a vae; they are \(4, 8, 8\)"),
        (
            lambda f: SigDEGPipeline(colour(), gaussian()),
            ValueError,
            r"generator must have events \(4, height, width\); they are \(3, 8, 8\)",
        ),
        (
            lambda f: SigDEGPipeline(latent(), tiny_unet()),
            ValueError,
            "vae must be one of 'AutoencoderKL', 'VQModel'; got 'UNet2DModel'",
        ),
        (
            lambda f: SigDEGPipeline(latent(), gaussian(out_channels=2)),
            ValueError,
            "channels of the vae's images must be one of 1, 3; got 2",
        ),
        (
            lambda f: SigDEGPipeline(colour(), results={"n": 1}),
            ValueError,
            "results must be a list of rows, .*got dict",
        ),
        (
            lambda f: SigDEGPipeline(colour(), results=[*results(), {**results()[0], "n": 3} | {"measured": [{}]}]),
            ValueError,
            r"results\[2\]\['measured'\] must be a list of measured numbers",
        ),
        (
            lambda f: SigDEGPipeline(colour(), results=[{"method": "mine", "steps": 3}]),
            ValueError,
            r"results\[0\] must be a row of a report.json; it lacks n, nfe, pathwise_rmse, pathwise_rmse_se, seconds",
        ),
        (lambda f: SigDEGPipeline(colour()).to(torch.float16), ValueError, "dtype must be one of torch.float32, torch"),
        (
            lambda f: SigDEGPipeline(of_event(1, 8, 8)).save_pretrained(f),
            ValueError,
            "generator must be made of its teacher's network to be saved; this one corrects a denoiser",
        ),
        (
            lambda f: SigDEGPipeline(of_event(1, 8, 8)).push_to_hub("owner/name"),
            ValueError,
            "generator must be made of its teacher's network to be saved",
        ),
        (
            lambda f: SigDEGPipeline(colour()).save_pretrained(f, repo_id="owner/name"),
            TypeError,
            "push_to_hub must be True for the options repo_id",
        ),
        (lambda f: SigDEGPipeline.from_pretrained(f), FileNotFoundError, "has no model_index.json"),
        (lambda f: SigDEGPipeline.from_pretrained(f / "none"), FileNotFoundError, "is not a folder, nor the id of a"),
        (
            lambda f: broken(f, lambda f: shutil.rmtree(f / "generator")),
            FileNotFoundError,
            "generator is not a folder",
        ),
        (
            lambda f: broken(f, lambda f: shutil.rmtree(f / "vae")),
            FileNotFoundError,
            r"vae.config.json does not exist",
        ),
        (
            lambda f: broken(f, lambda f: change_json(f / "model_index.json", _class_name="DDPMPipeline")),
            ValueError,
            "_class_name in .*model_index.json must be one of 'SigDEGPipeline'; got 'DDPMPipeline'",
        ),
        (
            lambda f: broken(f, lambda f: (f / "report.json").write_text("[{")),
            ValueError,
            "report.json is not JSON",
        ),
        (
            lambda f: broken(f, lambda f: pickled(f, "generator")),
            ValueError,
            "weights.safetensors is not a complete safetensors file .*pickles are not loaded",
        ),
        (
            lambda f: broken(f, lambda f: pickled(f, "vae")),
            ValueError,
            r"vae has no \*.safetensors weights, only .*bin. Pickles are never loaded",
        ),
    ],
)
def test_refusals(call, error, match, tmp_path):
    with pytest.raises(error, match=match):
        call(tmp_path)


def test_nothing_is_left_of_what_cannot_be_saved(tmp_path):
    with pytest.raises(ValueError, match="corrects a denoiser"):
        SigDEGPipeline(of_event(1, 8, 8)).save_pretrained(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_sample_that_is_not_finite_is_no_image():
    generator = colour()
    with torch.no_grad():
        next(p for name, p in generator.named_parameters() if "conv_in" in name).fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="not finite"):
        quiet(generator)(seeds=[1], num_inference_steps=2)
