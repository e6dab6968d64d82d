"""Configurations of diffusers' models and schedulers: checked by the arguments of their constructors, and those of
schedulers by their keys, whatever class they name, for what they say of the model."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Collection, Mapping
from typing import Any

from sdesig._checks import check_integer
from sdesig.sigdeg.networks import MOST

MOST_LAYERS = 100
TABLE = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule")
MODEL = (*TABLE, "trained_betas", "prediction_type", "rescale_betas_zero_snr")
SAMPLING = (
    *("variance_type", "clip_sample", "clip_sample_range", "thresholding", "dynamic_thresholding_ratio"),
    *("sample_max_value", "timestep_spacing", "steps_offset", "set_alpha_to_one", "skip_prk_steps", "algorithm_type"),
    *("solver_order", "solver_type", "solver_p", "predict_x0", "disable_corrector", "predictor_order"),
    *("corrector_order", "tau_func", "lower_order_final", "euler_at_final", "final_sigmas_type", "lambda_min_clipped"),
    *("noise_sampler_seed", "interpolation_type", "use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"),
    *("use_lu_lambdas", "tensor_format"),
    *("flow_shift", "use_dynamic_shifting", "time_shift_type", "shift_terminal"),  # where use_flow_sigmas is True
)
"""How a scheduler samples: it says nothing of the model."""
NEUTRAL = {"use_flow_sigmas": False, "timestep_type": "discrete", "predict_epsilon": True, "snr_shift_scale": 1.0}
"""Keys that say something of the model, with the value at which they do not; unknown ones do not at None and False."""
FLOW_PREDICTION = "flow_prediction"
FLOW = (
    *("num_train_timesteps", "shift", "base_shift", "max_shift", "base_image_seq_len", "max_image_seq_len"),
    "stochastic_sampling",
)
"""Keys of flow-matching schedulers beside those of `SAMPLING`: how times are shifted and samples drawn."""
EDM_KEYS = ("num_train_timesteps", "sigma_data", "sigma_min", "sigma_max", "sigma_schedule", "rho")
"""Keys of schedulers with EDM's noise levels beside those of `SAMPLING`."""
OF_MODELS = frozenset({*MODEL, *NEUTRAL, *EDM_KEYS})
"""Keys that say something of the model."""
OWN = ("eta", "reference_variance", "reference_file", "cells", "slack")
"""How a `PathAverageScheduler` samples, if a configuration has all of them: RePaintScheduler has an eta, too."""


def known_arguments(kind: type, config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a model without what its constructor does not know.

    As diffusers does, such keys, of a later version, are ignored with a warning.

    Args:
        kind: a class of diffusers.
        config: as in its JSON file; keys that begin with "_" are diffusers' own and are left out.

    Raises:
        TypeError, ValueError: see `check_arguments`.
    """
    given = {name: value for name, value in config.items() if not name.startswith("_")}
    known = {name: value for name, value in given.items() if name in inspect.signature(kind).parameters}
    if unknown := sorted(given.keys() - known.keys()):
        warnings.warn(f"{kind.__name__} of this diffusers does not know {', '.join(unknown)}: ignored", stacklevel=2)
    check_arguments(kind, known)
    return known


def check_arguments(kind: type, config: Mapping[str, Any]) -> None:
    """Check the values of a configuration by the annotations and defaults of a constructor.

    Raises:
        TypeError, ValueError: a value of another type, a whole number that is negative or huge; names the key.
    """
    for name, parameter in inspect.signature(kind).parameters.items():
        if config.get(name) is not None:  # which diffusers takes for every argument that it can do without
            _check(name, config[name], parameter.default, "float" in str(parameter.annotation))


def _check(name: str, value: object, default: object, real: bool) -> None:
    if isinstance(value, list | tuple):
        if isinstance(default, bool | str | float):
            raise TypeError(f"{name} must be one {type(default).__name__}; got {value!r}")
        inner = default[0] if isinstance(default, list | tuple) and default else default
        for k, part in enumerate(value):
            _check(f"{name}[{k}]", part, inner, real)
    elif isinstance(default, list | tuple):
        raise TypeError(f"{name} must be a list; got {value!r}")
    elif isinstance(default, bool | str):
        if not isinstance(value, type(default)):
            raise TypeError(f"{name} must be a {type(default).__name__}; got {value!r}")
    elif real or isinstance(default, float):
        if isinstance(value, bool) or not isinstance(value, int | float):  # an infinite one is a default
            raise TypeError(f"{name} must be a number; got {value!r}")
    elif isinstance(default, int) or not isinstance(value, str):
        check_integer(name, value, 0, MOST_LAYERS if name.startswith("layers_per_block") else MOST)


def is_edm(config: Mapping[str, Any]) -> bool:
    """Whether a scheduler's configuration is that of a model with EDM's preconditioning."""
    return config.get("sigma_data") is not None or config.get("timestep_type") == "continuous"


def check_edm_config(name: str, config: Mapping[str, Any]) -> None:
    """Raise ValueError, which names the key, unless a configuration of EDM's kind says nothing else of the model.

    Args:
        name: name of the configuration in messages.
        config: configuration of a scheduler for which `is_edm` holds.
    """
    own = _own_keys(config)
    if "sigma_data" not in config and config.get("prediction_type") != "v_prediction":
        raise ValueError(f"{name} must have prediction_type='v_prediction' with timestep_type='continuous'")
    if "solver_order" in config and "algorithm_type" not in config:
        raise ValueError(f"{name} must have algorithm_type beside solver_order: those without have other timesteps")
    for key in ("sigma_min", "sigma_max"):
        if not own and config.get(key) is None:
            raise ValueError(f"{name} must have {key}, as its noise levels are EDM's")
    _refuse_others(name, config, {*MODEL, *SAMPLING, *EDM_KEYS, *own, "snr_shift_scale", "timestep_type"})


def is_flow(config: Mapping[str, Any]) -> bool:
    """Whether a scheduler's configuration is that of a model of flow matching."""
    if config.get("prediction_type") == FLOW_PREDICTION:
        return True
    return {"num_train_timesteps", "shift"} <= config.keys() and not _has_betas(config)


def check_flow_config(name: str, config: Mapping[str, Any]) -> None:
    """Raise ValueError, which names the key, unless a configuration of flow matching says nothing else of the model.

    Args:
        name: name of the configuration in messages.
        config: configuration of a scheduler for which `is_flow` holds.
    """
    own = _own_keys(config)
    if not own and _has_betas(config) and config.get("use_flow_sigmas") is not True:
        raise ValueError(f"{name} must have use_flow_sigmas=True with prediction_type={FLOW_PREDICTION!r}")
    if config.get("prediction_type", FLOW_PREDICTION) != FLOW_PREDICTION:
        raise ValueError(f"{name} must have prediction_type={FLOW_PREDICTION!r}; got {config['prediction_type']!r}")
    _refuse_others(name, config, {*FLOW, *MODEL, *SAMPLING, *own, "use_flow_sigmas", "snr_shift_scale"})


def _own_keys(config: Mapping[str, Any]) -> Collection[str]:
    """Keys of a `PathAverageScheduler`'s sampling, if the configuration is one's."""
    return OWN if all(key in config for key in OWN) else ()


def _has_betas(config: Mapping[str, Any]) -> bool:
    return any(key in config for key in TABLE[1:])


def _refuse_others(
    name: str, config: Mapping[str, Any], known: Collection[str], why: str = "what it says of the model would be lost"
) -> None:
    """Raise ValueError for a key that is not known, unless it is off."""
    for key, value in config.items():
        off = value is None or value is False or value == NEUTRAL.get(key)
        if key[0] != "_" and key not in known and not off:
            raise ValueError(f"{name} must have no {key}={value!r}: {why}")


def check_table_config(name: str, config: Mapping[str, Any], honoured: Collection[str] = ()) -> None:
    """Raise ValueError, which names the key, unless the model's noise levels are those of a table of betas and nothing
    else is said of it than the betas and what it predicts.

    Names of classes, and all that begins with an underscore, do not matter.

    Args:
        name: name of the configuration in messages.
        config: configuration of a scheduler.
        honoured: further keys that the caller makes use of.
    """
    missing = [key for key in TABLE if key not in config]
    if missing:
        raise ValueError(
            f"{name} must be that of a scheduler with betas, of a variance-preserving model; it lacks "
            f"{', '.join(missing)}, and has {', '.join(sorted(key for key in config if key[0] != '_')) or 'no keys'}"
        )
    for key, value in config.items():
        if key in NEUTRAL and key not in honoured and value != NEUTRAL[key]:
            raise ValueError(
                f"{name} must have {key}={NEUTRAL[key]!r}, noise levels that are those of its betas; got {value!r}"
            )
    _refuse_others(
        name,
        config,
        {*MODEL, *SAMPLING, *honoured, *_own_keys(config)},
        "it is not among the keys that say how a scheduler with betas samples, and what it says of the model would be "
        "lost. Leave it out if it says nothing of the model",
    )
