"""The tensors of a trainer's model under the names, and in the shapes, of its checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hardpoint.errors import SyncError
from hardpoint_trainers.names import is_adapter, plain_name

if TYPE_CHECKING:
    import torch


def checkpoint_tensors(model: torch.nn.Module, dtype: torch.dtype | None = None) -> dict[str, torch.Tensor]:
    """What ``save_pretrained`` would write, without writing it.

    transformers 5 holds experts fused (``experts.gate_up_proj`` ``[E, 2I, H]``) where checkpoints have one tensor per
    expert and projection; its own reverse mapping undoes that. Tied tensors appear once, under the name that is saved.

    Args:
        model: a transformers model, plain or wrapped by PEFT, FSDP1 or ``torch.compile``; any other module's
            `state_dict` passes with its names made plain.
        dtype: convert floating-point tensors to it, for example from float32 master weights.

    Raises:
        SyncError: PEFT adapters that are not merged (their effect would be missing from what is sent), or a module kept
            by ``modules_to_save``.
    """
    _refuse_unmerged(model)
    base = _unwrap(model)
    state = {plain_name(name): tensor for name, tensor in model.state_dict().items() if not is_adapter(name)}
    _drop_tied(base, state)
    if hasattr(base, "config") and hasattr(base, "save_pretrained"):
        from transformers.core_model_loading import revert_weight_conversion

        state = revert_weight_conversion(base, state)
    return {name: _convert(tensor.detach(), dtype) for name, tensor in sorted(state.items())}


def _convert(tensor: torch.Tensor, dtype: torch.dtype | None) -> torch.Tensor:
    return tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor


def _unwrap(model: torch.nn.Module) -> Any:
    while True:
        if hasattr(model, "get_base_model"):  # PEFT
            model = model.get_base_model()  # type: ignore[operator]
        elif "_orig_mod" in model._modules:  # torch.compile
            model = model._modules["_orig_mod"]  # type: ignore[assignment]
        elif "_fsdp_wrapped_module" in model._modules:  # FSDP1
            model = model._modules["_fsdp_wrapped_module"]  # type: ignore[assignment]
        else:
            return model


def _drop_tied(base: Any, state: dict[str, torch.Tensor]) -> None:
    # name -> the name it shares storage with; filled by transformers 5 when the model is made
    for tied, source in (getattr(base, "all_tied_weights_keys", None) or {}).items():
        if tied in state and source in state:
            del state[tied]


def _refuse_unmerged(model: torch.nn.Module) -> None:
    for name, module in model.named_modules():
        if hasattr(module, "base_layer") and not getattr(module, "merged", True):
            raise SyncError(
                f"Adapter at {plain_name(name)} is not merged into its base layer, so the update would lack it. Call "
                "model.merge_adapter() before publishing and model.unmerge_adapter() after."
            )
        if type(module).__name__ == "ModulesToSaveWrapper":
            raise SyncError(
                f"Module {plain_name(name)} has a trained copy kept by modules_to_save, which cannot be published as a "
                "base weight. Merge it with model.merge_and_unload() on a copy of the model."
            )
