"""A regex in ``target_modules`` that survives PEFT's conversion of MoE models, with the experts that it names.

transformers 5 fused the experts (``experts.gate_up_proj [E, 2I, H]``), so PEFT converts configs that name the old
modules. What it does to a regex such as ``.*layers\\.0\\..*q_proj``:

- 0.19: takes the string for a list of characters; an error that names ``{'.', '*', 'q', ...}`` or a whole decoder
  layer;
- 0.20 to 0.21: reduces it to the last part of each name that matches, so that ``q_proj`` of *every* layer is adapted,
  without a word.

Here the regex stays what it was and PEFT matches modules by it; experts that it names by their old names become
``target_parameters`` with the full name of each layer's parameter. Everything else (lists, ``all-linear``, a string
that is no regex) goes to PEFT's own conversion.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from hardpoint.errors import HardpointError
from hardpoint.patching import is_wrapped, unwrap, wrap
from hardpoint.shims import Shim, Verdict
from hardpoint_trainers.compat.fused import FusedNames, conversion, experts_in, fused_names, model_type_of

if TYPE_CHECKING:
    import torch

NAME = "convert_peft_config_for_transformers"


def is_kept(target_modules: Any) -> bool:
    """Whether `target_modules` is a regex that must survive: a string, valid, and not ``all-linear``."""
    if not isinstance(target_modules, str) or target_modules.lower() == "all-linear":
        return False
    try:
        re.compile(target_modules)
    except re.error:
        return False
    return True


def convert(config: Any, model: torch.nn.Module, names: FusedNames) -> None:
    """Add to `config` (a ``LoraConfig``) what its regex means for fused experts; the regex itself stays.

    Rank and alpha of a parameter that fuses several old ones grow with their number, as in PEFT's own conversion, so
    that each keeps its scaling.

    Raises:
        HardpointError: the regex names part of what can only be adapted as a whole: some experts of a layer, or one of
            two fused projections; or the router beside an ``exclude_modules`` regex.
    """
    pattern = config.target_modules
    parameters = set(config.target_parameters or [])
    for container, new, experts in experts_in(model, names):
        if _names_experts(pattern, container, new, experts, names):
            parameters.add(f"{container}.{new}")
            if len(olds := _olds(new, names)) > 1:
                key = rf".*\.{re.escape(new)}"  # PEFT's own key
                config.rank_pattern = {**(config.rank_pattern or {}), key: config.r * len(olds)}
                config.alpha_pattern = {**(config.alpha_pattern or {}), key: config.lora_alpha * len(olds)}
    routers = _routers(pattern, model, names)
    if routers:
        _leave_out(config, routers)
        parameters |= {f"{router}.weight" for router in routers}
    if parameters:
        config.target_parameters = sorted(parameters)


def _names_experts(pattern: str, container: str, new: str, experts: int, names: FusedNames) -> bool:
    found = {
        (expert, old): re.fullmatch(pattern, f"{container}.{expert}.{old}") is not None
        for expert in range(experts)
        for old in _olds(new, names)
    }
    if all(found.values()):
        return True
    # Without a number, as a regex may name them that was written for fused experts.
    whole = [re.fullmatch(pattern, f"{container}.{old}") is not None for old in _olds(new, names)]
    if all(whole) or re.fullmatch(pattern, f"{container}.{new}"):
        return True
    if any(found.values()) or any(whole):
        missing = [f"{expert}.{old}" for (expert, old), yes in found.items() if not yes]
        raise HardpointError(
            f"target_modules={pattern!r} names part of {container}.{new} and leaves out {', '.join(missing[:4])}"
            f"{f' and {len(missing) - 4} more' if len(missing) > 4 else ''}: transformers 5 holds the experts of a "
            f"layer in one parameter, which LoRA adapts as a whole. Name all of {', '.join(_olds(new, names))} of all "
            f"{experts} experts, or none."
        )
    return False


def _olds(new: str, names: FusedNames) -> tuple[str, ...]:
    return names.together.get(new) or tuple(old for old, held in names.new_of.items() if held == new)


def _routers(pattern: str, model: torch.nn.Module, names: FusedNames) -> list[str]:
    """Routers that `pattern` matches: linear layers once, modules of their own now, which PEFT cannot wrap."""
    leaves = {old for old, new in names.new_of.items() if new == f"{old}.weight"}
    return [
        name
        for name, module in model.named_modules()
        if name.rpartition(".")[2] in leaves
        and re.fullmatch(pattern, name)
        and "weight" in module._parameters
        and not hasattr(module, "in_features")
    ]


def _leave_out(config: Any, routers: list[str]) -> None:
    excluded = getattr(config, "exclude_modules", None)
    if isinstance(excluded, str):
        raise HardpointError(
            f"target_modules={config.target_modules!r} matches the routers ({routers[0]}, ...), which are adapted as "
            f"parameters and must be excluded as modules, but exclude_modules is a regex itself ({excluded!r}). Give "
            "exclude_modules as a list, or leave the routers out of target_modules."
        )
    config.exclude_modules = sorted({*(excluded or ()), *routers})


def _around(original: Callable[..., Any]) -> Callable[..., Any]:
    def convert_peft_config_for_transformers(peft_config: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
        names = fused_names(model_type_of(model))
        lora = getattr(peft_config, "peft_type", None) == "LORA"
        if names is None or not lora or not is_kept(getattr(peft_config, "target_modules", None)):
            return original(peft_config, model, *args, **kwargs)
        return convert(peft_config, model, names)

    return convert_peft_config_for_transformers


def _examine() -> Verdict:
    """Convert a regex for one of two layers, on a model without weights, and see what it means afterwards."""
    module = conversion()
    if module is None or not hasattr(module, NAME):
        return Verdict(False, "this PEFT converts no configs.")
    import torch
    from peft import LoraConfig

    class Probe(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.config = type("Config", (), {"model_type": "qwen3_moe"})()
            self.layers = torch.nn.ModuleList(
                torch.nn.ModuleDict({"q_proj": torch.nn.Linear(1, 1, device="meta")}) for _ in range(2)
            )

    config = LoraConfig(target_modules=r"layers\.0\.q_proj")
    getattr(module, NAME)(config, Probe(), [])
    left = config.target_modules
    hit = [name for name in ("layers.0.q_proj", "layers.1.q_proj") if _matches(left, name)]
    if hit == ["layers.0.q_proj"]:
        return Verdict(False, "a regex in target_modules survives its conversion of MoE models.")
    return Verdict(True, f"a regex for q_proj of layer 0 became {left!r}, which matches {hit or 'nothing'}.")


def _matches(targets: Any, name: str) -> bool:
    if isinstance(targets, str):
        return re.fullmatch(targets, name) is not None
    return any(name == target or name.endswith(f".{target}") for target in targets or ())


def _installed() -> bool:
    import sys

    module = sys.modules.get("peft.utils.transformers_weight_conversion")
    return module is not None and is_wrapped(module, NAME)


def _take() -> None:
    if _installed():
        unwrap(conversion(), NAME)


SHIM = Shim(
    name="peft-moe-regex",
    host="peft",
    versions=">=0.19",
    reason="a regex in target_modules does not survive PEFT's conversion of MoE models (0.19 fails or wraps at random; "
    "0.20 and 0.21 adapt the same projection of every layer)",
    owner="hardpoint_trainers.compat.peft_targets",
    examine=_examine,
    put=lambda: wrap(conversion(), NAME, _around),
    take=_take,
    installed=_installed,
)
