"""FR5: GRPO on Ascend. Weights arrive, and answers are wrong: expert weights are in the transposed direction.

Kernels there read ``w13 [E_local, H, 2 * I_tp]`` and ``w2 [E_local, I_tp, H]``. `Stock` does what the report describes
on simulated tensors. It is wrong without a word where a matrix is square: w13 if 2 * I_tp == H, w2 if I_tp == H.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import pytest
import torch

from hardpoint.conformance.mutant import Mutant
from hardpoint.errors import LayoutError
from hardpoint.moe import FUSED, PER_EXPERT, LayoutDescriptor, PackedExperts, ReferenceMoELayout
from hardpoint_sim.backend import build
from support import field_report_faults as faults
from support.field_report_kit import Kit

EXPERTS, HIDDEN, LAYER = 3, 8, "model.layers.1.mlp"
Which = Literal["w13", "w2"]
# Which matrix is square: I_tp that makes it so.
SQUARE: tuple[tuple[Which, int], ...] = (("w13", HIDDEN // 2), ("w2", HIDDEN))
CAUGHT = (
    (faults.loads_into_processed_storage, "moe_layout.load-equals-pack", "after a load into packed storage"),
    (faults.processes_again, "moe_layout.twice-is-once", "w13_weight after being processed"),
    (faults.guesses_from_shapes, "moe_layout.shape-says-nothing", "packed again from state"),
    (
        faults.broadcasts_on_the_default_stream,
        "communicator.follows-the-current-stream",
        "broadcast between two pieces",
    ),
    (faults.sets_the_device_and_leaves_it, "communicator.runs-under-the-tensors-device", "was current, after"),
)
LAYOUT = ReferenceMoELayout(axes="[E,K,N]")


@pytest.fixture(autouse=True)
def _simulator() -> None:
    build({"devices": 1})


def checkpoint(intermediate: int, seed: int = 5) -> dict[str, torch.Tensor]:
    """Per-expert names as a trainer sends them: gate and up ``[I, H]``, down ``[H, I]``."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    return {
        f"{LAYER}.experts.{expert}.{name}_proj.weight": normal(HIDDEN, intermediate)
        if name == "down"
        else normal(intermediate, HIDDEN)
        for expert in range(EXPERTS)
        for name in ("gate", "up", "down")
    }


def fused(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same as Transformers 5 holds it: ``gate_up_proj [E, 2I, H]``, ``down_proj [E, H, I]``."""

    def stack(name: str) -> torch.Tensor:
        return torch.stack([tensors[f"{LAYER}.experts.{expert}.{name}_proj.weight"] for expert in range(EXPERTS)])

    return {
        f"{LAYER}.experts.gate_up_proj": torch.cat([stack("gate"), stack("up")], dim=1),
        f"{LAYER}.experts.down_proj": stack("down"),
    }


def grouped_matmul(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """``[E, T, N]`` of `x` ``[E, T, K]`` and `weight` ``[E, K, N]``; names the hidden size, as the NPU's does."""
    if x.shape[-1] != weight.shape[-2]:
        raise RuntimeError(f"npu_grouped_matmul: hidden size of x is {x.shape[-1]}, of weight {weight.shape[-2]}")
    return torch.bmm(x, weight)


def answer(weight: torch.Tensor, consumed: int) -> torch.Tensor:
    """What the kernel computes with the weight that is there, on the host."""
    x = torch.linspace(-1, 1, EXPERTS * 2 * consumed).reshape(EXPERTS, 2, consumed).to("sim:0")
    return grouped_matmul(x, weight).cpu()


def right(tensors: dict[str, torch.Tensor], which: Which) -> torch.Tensor:
    """The same from the checkpoint itself."""
    weight = fused(tensors)[f"{LAYER}.experts.{'gate_up' if which == 'w13' else 'down'}_proj"]
    x = torch.linspace(-1, 1, EXPERTS * 2 * weight.shape[-1]).reshape(EXPERTS, 2, weight.shape[-1])
    return torch.bmm(x, weight.transpose(1, 2))


@dataclass
class Stock:
    """One parameter of a stock layer: it has a loader and a post-processing, and does not know which came last."""

    which: Which
    intermediate: int

    def __post_init__(self) -> None:
        rows, columns = (2 * self.intermediate, HIDDEN) if self.which == "w13" else (HIDDEN, self.intermediate)
        self.weight = torch.empty(EXPERTS, rows, columns, device="sim:0")
        self.consumed = columns

    def load_weights(self, tensors: dict[str, torch.Tensor]) -> None:
        for name, tensor in tensors.items():
            expert, shard = int(name.split(".")[5]), name.split(".")[6]
            here = self.weight[expert]
            if self.which == "w2" and shard == "down_proj":
                here.copy_(tensor.to("sim:0"))
            elif self.which == "w13" and shard != "down_proj":
                here.narrow(0, 0 if shard == "gate_proj" else here.shape[0] // 2, here.shape[0] // 2).copy_(
                    tensor.to("sim:0")
                )

    def process_weights_after_loading(self) -> None:
        self.weight = self.weight.transpose(1, 2).contiguous()


# -- what happened ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("which", "intermediate"), [*SQUARE, ("w13", 6), ("w2", 6)])
def test_once_loaded_and_once_processed_it_is_right(which: Which, intermediate: int) -> None:
    layer = Stock(which, intermediate)
    layer.load_weights(checkpoint(intermediate))
    layer.process_weights_after_loading()
    torch.testing.assert_close(answer(layer.weight, layer.consumed), right(checkpoint(intermediate), which))


@pytest.mark.parametrize(("which", "intermediate"), SQUARE)
@pytest.mark.parametrize("how", ["loaded into processed parameters", "processed twice"])
def test_where_the_sizes_are_equal_nothing_reports_anything(which: Which, intermediate: int, how: str) -> None:
    layer, new = Stock(which, intermediate), checkpoint(intermediate, seed=6)
    layer.load_weights(new)
    layer.process_weights_after_loading()
    if how == "processed twice":
        layer.process_weights_after_loading()
    else:
        layer.load_weights(new)
    found, expected = answer(layer.weight, layer.consumed), right(new, which)
    assert found.shape == expected.shape
    assert found.isfinite().all()
    assert not torch.allclose(found, expected, rtol=0.1, atol=0.1), "it happens to be right"


@pytest.mark.parametrize("which", ["w13", "w2"])
def test_where_they_differ_the_grouped_matmul_reports_a_hidden_size(which: Which) -> None:
    layer = Stock(which, 6)
    layer.load_weights(checkpoint(6))
    layer.process_weights_after_loading()
    with pytest.raises(RuntimeError, match=r"must match the size|shape"):
        layer.load_weights(checkpoint(6))
    layer.process_weights_after_loading()
    with pytest.raises(RuntimeError, match="npu_grouped_matmul: hidden size of x is"):
        answer(layer.weight, layer.consumed)


# -- what ends it -----------------------------------------------------------------------------------------------------


def descriptor(intermediate: int, **changes: object) -> LayoutDescriptor:
    model = LayoutDescriptor(EXPERTS, HIDDEN, intermediate, dtype=torch.float32)
    return replace(LAYOUT.kernel_layout(model), **changes)  # type: ignore[arg-type]


def assert_right(packed: PackedExperts, tensors: dict[str, torch.Tensor]) -> None:
    assert packed.descriptor.w13_state == packed.descriptor.w2_state == "kernel"
    for which, weight in (("w13", packed.w13_weight), ("w2", packed.w2_weight)):
        torch.testing.assert_close(answer(weight, weight.shape[1]), right(tensors, which))  # type: ignore[arg-type]


@pytest.mark.parametrize("intermediate", [HIDDEN // 2, HIDDEN, 6])
@pytest.mark.parametrize("names", ["per expert", "fused"])
def test_checkpoint_names_arrive_in_processed_storage_in_place_however_often(intermediate: int, names: str) -> None:
    first = checkpoint(intermediate)
    packed = LAYOUT.pack(first, descriptor(intermediate), device="sim:0", layer=LAYER)
    assert_right(packed, first)
    addresses = packed.w13_weight.data_ptr(), packed.w2_weight.data_ptr()
    for seed in (6, 7, 7):
        new = checkpoint(intermediate, seed)
        session = LAYOUT.load(packed, FUSED if names == "fused" else PER_EXPERT)
        for name, tensor in (fused(new) if names == "fused" else new).items():
            session.write(name, tensor)
        assert session.finish() is packed
        assert_right(packed, new)
    assert (packed.w13_weight.data_ptr(), packed.w2_weight.data_ptr()) == addresses


@pytest.mark.parametrize("intermediate", [HIDDEN // 2, HIDDEN, 6])
def test_post_processing_is_done_once_per_parameter_whichever_was_done_before(intermediate: int) -> None:
    new = checkpoint(intermediate)
    for w13_state in ("model", "kernel"):
        for w2_state in ("model", "kernel"):
            before = descriptor(intermediate, w13_state=w13_state, w2_state=w2_state)
            loaded = LAYOUT.pack(new, before, device="sim:0", layer=LAYER)
            once = LAYOUT.pack(loaded, descriptor(intermediate))
            assert_right(once, new)
            assert LAYOUT.pack(once, descriptor(intermediate)) is once


@pytest.mark.parametrize("intermediate", [HIDDEN // 2, HIDDEN, 6])
def test_weights_that_come_in_runtime_layout_are_not_processed_at_all(intermediate: int) -> None:
    """FSDP2 colocate: the trainer's part is copied straight into the engine's storage."""
    serving = LAYOUT.pack(checkpoint(intermediate), descriptor(intermediate), device="sim:0", layer=LAYER)
    new = checkpoint(intermediate, seed=9)
    for state in ("model", "kernel"):
        trained = LAYOUT.pack(new, descriptor(intermediate).in_state(state), device="sim:0", layer=LAYER)  # type: ignore[arg-type]
        LAYOUT.copy_into(trained, serving)
        assert_right(serving, new)


@pytest.mark.parametrize("tp_rank", [0, 1])
def test_tensor_parallel_slices_where_twice_i_tp_is_h(tp_rank: int) -> None:
    whole = checkpoint(HIDDEN)  # I = H, I_tp = H / 2
    cut = descriptor(HIDDEN, tp_rank=tp_rank, tp_size=2)
    packed = LAYOUT.pack(whole, cut, device="sim:0", layer=LAYER)
    assert packed.w13_weight.shape == (EXPERTS, HIDDEN, HIDDEN)
    rows = slice(tp_rank * HIDDEN // 2, (tp_rank + 1) * HIDDEN // 2)
    own = {name: (tensor[:, rows] if "down" in name else tensor[rows]) for name, tensor in whole.items()}
    assert_right(packed, own)


def test_what_does_not_fit_is_refused_by_name_before_anything_is_written() -> None:
    tensors = checkpoint(6)
    packed = LAYOUT.pack(tensors, descriptor(6), device="sim:0", layer=LAYER)
    with pytest.raises(LayoutError, match=rf"w13_weight of layer {LAYER} is declared model state.*found \(3, 8, 12\)"):
        replace(packed, descriptor=packed.descriptor.in_state("model"))
    session = LAYOUT.load(packed)
    gate = f"{LAYER}.experts.0.gate_proj.weight"
    with pytest.raises(LayoutError, match=rf"{gate} of layer {LAYER} must have shape \(6, 8\).*found \(8, 6\)"):
        session.write(gate, tensors[gate].t().contiguous())
    session.write(gate, tensors[gate])
    with pytest.raises(LayoutError, match=r"gate of expert 0 .* was already written by .* would write it again"):
        session.write(gate, tensors[gate])
    with pytest.raises(LayoutError, match=r"8 tensors are missing for the experts .*experts\.0\.up_proj\.weight"):
        session.finish()
    assert_right(packed, tensors)


@pytest.mark.parametrize(("fault", "law", "words"), CAUGHT, ids=lambda value: getattr(value, "name", ""))
def test_the_kit_names_the_fault(kit: Kit, fault: Mutant, law: str, words: str) -> None:
    assert fault.law == law
    assert words in kit.caught(fault, among=[each for each, _, _ in CAUGHT])
