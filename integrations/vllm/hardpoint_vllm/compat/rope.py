"""Lists in ``ignore_keys_at_rope_validation``, which transformers 5 treats as a set (5.0 to 5.9).

Model configs outside transformers (vLLM 0.18's for Qwen3.5, remote code) give a list. transformers subtracts it from a
set, or unites it with one, and raises a TypeError. The list becomes a set while vLLM makes its configs, and
transformers is as it was afterwards.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from hardpoint.shims import Shim, Verdict
from hardpoint_vllm.patching import is_wrapped, unwrap, wrap

METHOD, KEYS = "convert_rope_params_to_dict", "ignore_keys_at_rope_validation"
_TARGET = "create_engine_config"


@contextmanager
def list_keys_as_sets() -> Iterator[bool]:
    """While it is entered, transformers takes a list for `KEYS`; whether this transformers has the method at all.

    For use by hand around ``AutoConfig.from_pretrained``, also with a vLLM outside the supported range.
    """
    owner = _owner()
    if owner is None:
        yield False
        return
    original = owner.__dict__[METHOD]

    def convert_rope_params_to_dict(self: Any, *args: Any, **kwargs: Any) -> Any:
        # transformers 5.0 to 5.3 pass the keys as an argument, later ones have them on the config.
        if isinstance(kwargs.get(KEYS), list):
            kwargs[KEYS] = set(kwargs[KEYS])
        if isinstance(getattr(self, KEYS, None), list):
            setattr(self, KEYS, set(getattr(self, KEYS)))
        return original(self, *args, **kwargs)

    setattr(owner, METHOD, convert_rope_params_to_dict)
    try:
        yield True
    finally:
        setattr(owner, METHOD, original)


def _owner() -> type | None:
    """The class of transformers that has the method; None before 5.0."""
    from transformers import PretrainedConfig

    return next((base for base in PretrainedConfig.__mro__ if METHOD in vars(base)), None)


def _around(original: Callable[..., Any]) -> Callable[..., Any]:
    def create_engine_config(self: Any, *args: Any, **kwargs: Any) -> Any:
        with list_keys_as_sets():
            return original(self, *args, **kwargs)

    return create_engine_config


def _examine() -> Verdict:
    """Give the method a list in both places, as old configs do."""
    from transformers import PretrainedConfig

    if _owner() is None:
        return Verdict(False, f"this transformers has no {METHOD}.")
    try:
        for given in ({KEYS: ["mrope_section"]}, {"partial_rotary_factor": 0.5}):
            config = PretrainedConfig()
            config.rope_parameters = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1]}
            config.max_position_embeddings = 8
            setattr(config, KEYS, ["mrope_section"])
            getattr(config, METHOD)(**given)
    except TypeError as error:
        return Verdict(True, f"a list in {KEYS} raises TypeError: {error}.")
    return Verdict(False, f"transformers takes a list in {KEYS} by itself.")


def _engine_args() -> Any:
    return getattr(sys.modules.get("vllm.engine.arg_utils"), "EngineArgs", None)


def _put() -> bool:
    from vllm.engine.arg_utils import EngineArgs

    return wrap(EngineArgs, _TARGET, _around)


def _take() -> None:
    if _installed():
        unwrap(_engine_args(), _TARGET)


def _installed() -> bool:
    owner = _engine_args()
    return owner is not None and is_wrapped(owner, _TARGET)


SHIM = Shim(
    name="rope-list-keys",
    host="transformers",
    versions=">=5.0,<5.11",
    reason=f"a model config that gives {KEYS} as a list ends in a TypeError inside transformers",
    owner="hardpoint_vllm.compat.rope",
    examine=_examine,
    put=_put,
    take=_take,
    installed=_installed,
)
