"""``lora_dropout`` on fused experts: refused before anything is wrapped, with the parameter's name.

LoRA on a parameter computes ``W + BA`` and never sees the input, so dropout on the input cannot be applied. PEFT says
so while it injects, when other modules are wrapped already: the model is left half adapted, and the error names neither
the parameter nor a way out.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from hardpoint.errors import HardpointError
from hardpoint.patching import is_wrapped, unwrap, wrap
from hardpoint.shims import Shim, Verdict

if TYPE_CHECKING:
    import torch

_OWNER, _NAME = "BaseTuner", "_check_new_adapter_config"
_MODULE = "peft.tuners.tuners_utils"


def refuse_dropout_on_experts(config: Any, model: torch.nn.Module) -> None:
    """Refuse a ``LoraConfig`` with ``lora_dropout > 0`` whose ``target_parameters`` match a parameter of `model`.

    Call it with a config that PEFT has converted, or with one that names ``target_parameters`` itself.

    Raises:
        HardpointError: with the first parameter that would get the dropout.
    """
    dropout = getattr(config, "lora_dropout", 0.0)
    targets = getattr(config, "target_parameters", None)
    if not dropout or not targets:
        return
    hit = [name for name, _ in model.named_parameters() if _plain(name) in targets or _ends(_plain(name), targets)]
    if hit:
        raise HardpointError(
            f"lora_dropout={dropout:g} cannot be applied to {_plain(hit[0])}"
            f"{f' and {len(hit) - 1} more parameters' if len(hit) > 1 else ''}: LoRA on a parameter adds B @ A to the "
            "weight and never sees the input that dropout would act on. Nothing was wrapped. Set lora_dropout=0, or "
            "leave the experts out of target_modules and target_parameters and keep dropout for the linear layers."
        )


def _plain(name: str) -> str:
    return name.removeprefix("base_model.model.").replace(".base_layer", "")


def _ends(name: str, targets: Any) -> bool:
    return any(name.endswith(f".{target}") for target in targets)


def _around(original: Callable[..., Any]) -> Callable[..., Any]:
    def _check_new_adapter_config(self: Any, config: Any) -> Any:
        # PEFT calls it at the start of an injection, after the conversion and before the first module is wrapped.
        refuse_dropout_on_experts(config, self.model)
        return original(self, config)

    return _check_new_adapter_config


def _owner(load: bool) -> Any:
    if load:
        import peft.tuners.lora.model as lora

        return lora.LoraModel
    module = sys.modules.get("peft.tuners.lora.model")
    return getattr(module, "LoraModel", None)


def _examine() -> Verdict:
    """Adapt one linear layer and one parameter with dropout, on a tiny module, and see what is left."""
    import torch
    from peft import LoraConfig, inject_adapter_in_model

    class Experts(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate_up_proj = torch.nn.Parameter(torch.zeros(2, 2, 2))

    model = torch.nn.ModuleDict({"q_proj": torch.nn.Linear(2, 2), "experts": Experts()})
    config = LoraConfig(r=1, target_modules=["q_proj"], target_parameters=["experts.gate_up_proj"], lora_dropout=0.5)
    try:
        inject_adapter_in_model(config, model)
    except Exception as error:  # noqa: BLE001 - whatever it is, the question is what it left behind
        wrapped = [name for name, _ in model.named_parameters() if "lora_" in name]
        if wrapped:
            return Verdict(True, f"lora_dropout on experts raises ({error}) and leaves {wrapped[0]} in the model.")
        return Verdict(False, f"lora_dropout on experts is refused before anything is wrapped: {error}.")
    return Verdict(False, "lora_dropout on experts is accepted by this PEFT.")


def _installed() -> bool:
    owner = _owner(load=False)
    return owner is not None and is_wrapped(owner, _NAME)


def _take() -> None:
    if _installed():
        unwrap(_owner(load=True), _NAME)


SHIM = Shim(
    name="peft-moe-dropout",
    host="peft",
    versions=">=0.17",
    reason="lora_dropout on fused experts fails half way through an injection and leaves the model half adapted",
    owner="hardpoint_trainers.compat.peft_dropout",
    examine=_examine,
    put=lambda: wrap(_owner(load=True), _NAME, _around),
    take=_take,
    installed=_installed,
)
