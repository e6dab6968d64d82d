"""DDPM++ and NCSN++ by score-SDE's algorithm, of diffusers' blocks: an independent reference for `SongUNet`."""

import contextlib
import math

import pytest
import torch
from images_tiny import seeded
from torch import nn

with contextlib.suppress(ModuleNotFoundError):  # then `Reference` skips its test
    from diffusers.models.attention_processor import Attention
    from diffusers.models.downsampling import FirDownsample2D
    from diffusers.models.embeddings import GaussianFourierProjection, get_timestep_embedding
    from diffusers.models.resnet import ResnetBlock2D

CONFIG = {"channels": 2, "size": 16, "width": 8, "multipliers": (1, 2), "blocks": 2, "attention": (8,)}
KINDS = {
    "ddpmpp": {},
    "ncsnpp": {"embedding": "fourier", "encoder": "residual"},
    "ncsnpp of VP": {"encoder": "residual"},
}
EDM_NAMES = (
    *("map_layer0", "map_layer1", "enc.16x16_conv", "enc.16x16_block0", "enc.16x16_block1", "enc.8x8_down"),
    *("enc.8x8_aux_residual", "enc.8x8_block0", "enc.8x8_block0", "enc.8x8_block1", "enc.8x8_block1"),
    *("dec.8x8_in0", "dec.8x8_in0", "dec.8x8_in1"),
    *("dec.8x8_block0", "dec.8x8_block1", "dec.8x8_block2", "dec.8x8_block2"),
    *("dec.16x16_up", "dec.16x16_block0", "dec.16x16_block1", "dec.16x16_block2"),
    *("dec.16x16_aux_norm", "dec.16x16_aux_conv"),
)
"""EDM's names of `CONFIG`, in the order of computation: an attention is a part of the block before it."""
RESNET = {
    "norm1": ("GroupNorm_0", "norm0"),
    "conv1": ("Conv_0", "conv0"),
    "time_emb_proj": ("Dense_0", "affine"),
    "norm2": ("GroupNorm_1", "norm1"),
    "conv2": ("Conv_1", "conv1"),
    "conv_shortcut": ("Conv_2", "skip"),
}
"""diffusers' names of the parts of a block, score-SDE's and EDM's."""
ATTENTION = {"to_q": "NIN_0", "to_k": "NIN_1", "to_v": "NIN_2", "to_out.0": "NIN_3"}


def config_of(*, embedding="positional", encoder="standard", classes=0):
    """The arguments of `SongUNet` for a `Reference`."""
    return {**CONFIG, "embedding": embedding, "encoder": encoder, **({"classes": classes} if classes else {})}


def resnet(inputs, outputs, encoder, **where):
    return ResnetBlock2D(
        in_channels=inputs,
        out_channels=outputs,
        temb_channels=32,
        groups=inputs // 4,
        groups_out=outputs // 4,
        output_scale_factor=math.sqrt(2),
        kernel="sde_vp" if encoder == "standard" else "fir",
        use_in_shortcut=inputs != outputs or bool(where),
        **where,
    )


def attention(width):
    return Attention(
        width,
        heads=1,
        dim_head=width,
        bias=True,
        norm_num_groups=width // 4,
        eps=1e-6,
        residual_connection=True,
        rescale_output_factor=math.sqrt(2),
        _from_deprecated_attn_block=True,
    )


class Reference(nn.Module):
    """The network of `CONFIG`; its modules are in score-SDE's order."""

    def __init__(self, *, embedding="positional", encoder="standard", classes=0, seed=0):
        super().__init__()
        pytest.importorskip("diffusers")
        torch.manual_seed(seed)
        self.embedding, self.encoder, self.classes = embedding, encoder, classes
        width = 8 if embedding == "positional" else 16
        modules = [] if embedding == "positional" else [GaussianFourierProjection(8, scale=16.0, log=False)]
        self.label = nn.Linear(classes, width) if classes else None
        modules += [nn.Linear(width, 32), nn.Linear(32, 32), nn.Conv2d(2, 8, 3, padding=1)]
        modules += [resnet(8, 8, encoder), resnet(8, 8, encoder), resnet(8, 8, encoder, down=True)]
        if encoder == "residual":
            modules += [FirDownsample2D(2, use_conv=True, out_channels=8)]
        modules += [resnet(8, 16, encoder), attention(16), resnet(16, 16, encoder), attention(16)]
        modules += [resnet(16, 16, encoder), attention(16), resnet(16, 16, encoder)]
        modules += [resnet(32, 16, encoder), resnet(32, 16, encoder), resnet(24, 16, encoder), attention(16)]
        modules += [resnet(16, 16, encoder, up=True)]
        modules += [resnet(24, 8, encoder), resnet(16, 8, encoder), resnet(16, 8, encoder)]
        modules += [nn.GroupNorm(2, 8, eps=1e-6), nn.Conv2d(8, 2, 3, padding=1)]
        self.all_modules = nn.ModuleList(modules)
        seeded(self, seed)

    def forward(self, x, noise, label=None):
        silu, modules = nn.functional.silu, iter(self.all_modules)
        embedded = next(modules)(noise) if self.embedding == "fourier" else get_timestep_embedding(noise, 8).to(x)
        if self.classes:
            hot = torch.eye(self.classes, dtype=x.dtype)[label]
            embedded = embedded + self.label(math.sqrt(self.classes) * hot)
        temb = next(modules)(embedded)
        temb = next(modules)(silu(temb))
        hs, pyramid = [next(modules)(x)], x
        for _ in range(2):
            hs.append(next(modules)(hs[-1], temb))
        h = next(modules)(hs[-1], temb)
        if self.encoder == "residual":
            h = pyramid = (next(modules)(pyramid) + h) / math.sqrt(2)
        hs.append(h)
        for _ in range(2):
            h = next(modules)(hs[-1], temb)
            hs.append(next(modules)(h))
        h = next(modules)(hs[-1], temb)
        h = next(modules)(h)
        h = next(modules)(h, temb)
        for _ in range(3):
            h = next(modules)(torch.cat([h, hs.pop()], 1), temb)
        h = next(modules)(h)
        h = next(modules)(h, temb)
        for _ in range(3):
            h = next(modules)(torch.cat([h, hs.pop()], 1), temb)
        h = silu(next(modules)(h))
        return next(modules)(h)

    def config(self):
        return config_of(embedding=self.embedding, encoder=self.encoder, classes=self.classes)

    def score_sde(self):
        """Weights by score-SDE's names."""
        named = {}
        for k, module in enumerate(self.all_modules):
            for name, value in module.state_dict().items():
                part, _, leaf = name.rpartition(".")
                if isinstance(module, ResnetBlock2D):
                    part = RESNET[part][0]
                elif isinstance(module, GaussianFourierProjection):
                    leaf = "W"
                elif isinstance(module, Attention):
                    part = ATTENTION.get(part, "GroupNorm_0")
                    if part != "GroupNorm_0":
                        leaf, value = ("W", value.T) if leaf == "weight" else ("b", value)
                named[".".join(filter(None, ("all_modules", str(k), part, leaf)))] = value.clone()
        return named

    def edm(self):
        """Weights by EDM's names."""
        named, modules = {}, list(self.all_modules)
        if self.embedding == "fourier":
            named["map_noise.freqs"] = modules.pop(0).weight.detach()
        if self.classes:
            named |= {f"map_label.{name}": value for name, value in self.label.state_dict().items()}
        names = [name for name in EDM_NAMES if self.encoder == "residual" or not name.endswith("residual")]
        row = torch.tensor([1.0, 3.0, 3.0, 1.0] if self.encoder == "residual" else [1.0, 1.0])
        kernel = torch.outer(row, row)[None, None] / row.sum() ** 2
        for name, module in zip(names, modules, strict=True):
            state = module.state_dict()
            if isinstance(module, ResnetBlock2D):
                for key, value in state.items():
                    part, leaf = key.split(".")
                    named[f"{name}.{RESNET[part][1]}.{leaf}"] = value
                if module.up or module.down:
                    named[f"{name}.conv0.resample_filter"] = named[f"{name}.skip.resample_filter"] = kernel
            elif isinstance(module, FirDownsample2D):
                named |= {f"{name}.{key.split('.')[1]}": value for key, value in state.items()}
                named[f"{name}.resample_filter"] = kernel
            elif isinstance(module, Attention):
                for leaf in ("weight", "bias"):
                    named[f"{name}.norm2.{leaf}"] = state[f"group_norm.{leaf}"]
                    one = (..., None, None) if leaf == "weight" else ...
                    named[f"{name}.proj.{leaf}"] = state[f"to_out.0.{leaf}"][one]
                    rows = zip(*(state[f"to_{part}.{leaf}"] for part in "qkv"), strict=True)
                    named[f"{name}.qkv.{leaf}"] = torch.stack([value for row in rows for value in row])[one]
            else:
                named |= {f"{name}.{key}": value for key, value in state.items()}
        return {name: value.clone() for name, value in named.items()}
