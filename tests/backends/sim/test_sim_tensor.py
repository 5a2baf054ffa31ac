"""Tensors on simulated devices: where they are, what unwritten memory reads as, and what may be mixed."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

from hardpoint.errors import DeviceError
from hardpoint_sim.errors import DeviceMix
from hardpoint_sim.settings import Settings
from support.simulator import Simulator, is_poisoned, simulator


@pytest.fixture
def sim() -> Simulator:
    return simulator(Settings(devices=3))


def test_a_tensor_is_on_the_device_that_was_asked_for(sim: Simulator) -> None:
    assert torch.empty(3, device="sim:2").device == torch.device("sim", 2)
    with sim.device.use(1):
        assert torch.zeros(3, device="sim").device == torch.device("sim", 1)


def test_a_device_that_does_not_exist_is_refused_in_a_sentence(sim: Simulator) -> None:
    with pytest.raises(DeviceError, match=r"there is no device sim:3; this simulator has 3: sim:0 to sim:2"):
        torch.empty(1, device="sim:3")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.int8, torch.uint8])
def test_empty_is_poisoned(sim: Simulator, dtype: torch.dtype) -> None:
    made = torch.empty(5, dtype=dtype, device="sim")
    assert is_poisoned(made)
    assert is_poisoned(torch.empty_like(made))
    assert is_poisoned(made.new_empty(2))


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_empty_is_poisoned_in_eight_bits(sim: Simulator, dtype: torch.dtype) -> None:
    assert torch.empty(5, device="sim", dtype=dtype).cpu().float().isnan().all()


def test_without_the_rule_empty_looks_innocent() -> None:
    simulator(poison_empty=False)
    assert torch.empty(5, device="sim").cpu().tolist() == [0.0] * 5


def test_factories_give_their_values(sim: Simulator) -> None:
    for made, expected in [
        (torch.zeros(3, device="sim:1"), torch.zeros(3)),
        (torch.ones(2, 2, device="sim:1"), torch.ones(2, 2)),
        (torch.full((2,), 7, device="sim:1"), torch.full((2,), 7)),
        (torch.arange(2, 9, 3, device="sim:1"), torch.arange(2, 9, 3)),
        (torch.linspace(0, 1, 5, device="sim:1"), torch.linspace(0, 1, 5)),
        (torch.eye(3, device="sim:1"), torch.eye(3)),
        (torch.tensor([1.5, 2.5], device="sim:1"), torch.tensor([1.5, 2.5])),
        (torch.arange(6.0).view(2, 3).t().to("sim:1"), torch.arange(6.0).view(2, 3).t()),
    ]:
        assert made.device == torch.device("sim", 1)
        assert torch.equal(made.cpu(), expected)


def test_mixing_devices_names_operation_arguments_and_devices(sim: Simulator) -> None:
    here, there = torch.ones(2, device="sim:0"), torch.ones(2, device="sim:1")
    with pytest.raises(DeviceMix) as refusal:
        here + there
    text = str(refusal.value)
    assert "aten.add.Tensor" in text
    assert "argument 0 (self) on sim:0" in text
    assert "argument 1 (other) on sim:1" in text


def test_mixing_host_and_device_is_refused_in_every_position(sim: Simulator) -> None:
    device, host = torch.ones(2, device="sim"), torch.ones(2)
    with pytest.raises(DeviceMix, match=r"argument 1 \(other\) on cpu"):
        device + host
    with pytest.raises(DeviceMix, match=r"argument 0 \(self\) on cpu"):
        host.add_(device)
    with pytest.raises(DeviceMix, match=r"argument 0 \(tensors\)\[1\] on cpu"):
        torch.cat([device, host])
    with pytest.raises(DeviceMix, match="'out'"):
        torch.add(device, device, out=torch.empty(2))
    with pytest.raises(DeviceMix):
        torch.tensor(1.0).add_(device.sum())


def test_without_the_rule_a_mix_goes_unnoticed() -> None:
    simulator(check_devices=False)
    assert (torch.ones(2, device="sim") + torch.ones(2)).cpu().tolist() == [2.0, 2.0]


def test_a_host_number_may_stand_in_an_operation_as_in_torch(sim: Simulator) -> None:
    assert (torch.ones(2, device="sim") * torch.tensor(3.0)).cpu().tolist() == [3.0, 3.0]
    assert torch.arange(4, device="sim")[torch.tensor([3, 0])].cpu().tolist() == [3, 0]


def test_views_share_memory_and_addresses(sim: Simulator) -> None:
    base = torch.zeros(2, 4, device="sim:1")
    base.view(4, 2)[1].fill_(5)
    base[1, 1:3] = 7
    assert base.cpu().tolist() == [[0, 0, 5, 5], [0, 7, 7, 0]]
    assert base[1].data_ptr() == base.data_ptr() + 4 * base.element_size()
    assert base[1].untyped_storage().data_ptr() == base.data_ptr()
    assert torch.zeros(1, device="sim:1").data_ptr() not in (0, base.data_ptr())


def test_operations_agree_with_the_host(sim: Simulator) -> None:
    torch.manual_seed(0)
    x, w = torch.randn(4, 6), torch.randn(6, 6)
    sx, sw = x.to("sim:2"), w.to("sim:2")
    for function in (
        lambda a, b: a @ b,
        lambda a, b: torch.softmax(a @ b, -1),
        lambda a, b: torch.topk(a, 2).values,
        lambda a, b: a[a > 0],
        lambda a, b: torch.nonzero(a > 0),
        lambda a, b: torch.cat([a, b]).sum(0),
        lambda a, b: torch.nn.functional.layer_norm(a, (6,)),
        lambda a, b: torch.nn.functional.scaled_dot_product_attention(a[None], b[None], b[None]),
        lambda a, b: torch.where(a > 0, a, float("nan")),
        lambda a, b: a.clone().index_add_(0, torch.arange(2, device=a.device), b[:2]),
        lambda a, b: torch.split(b, [2, 4])[1],
        lambda a, b: a.to(torch.bfloat16).float(),
        lambda a, b: torch.unique((a > 0).int()),
    ):
        assert torch.allclose(function(sx, sw).cpu(), function(x, w), equal_nan=True)
    assert torch.equal(sx, sx.clone())
    assert (sx.sum() - x.sum()).item() == pytest.approx(0.0, abs=1e-5)


@pytest.mark.filterwarnings("ignore:An output with one or more elements was resized")
def test_out_takes_the_shape_when_empty_and_is_not_resized_otherwise(sim: Simulator) -> None:
    ones = torch.ones(3, device="sim")
    out = torch.empty(0, device="sim")
    torch.add(ones, ones, out=out)
    assert out.cpu().tolist() == [2.0] * 3
    with pytest.raises(DeviceError, match=r"resize its output on sim:0 from \[2\] to \[3\]"):
        torch.add(ones, ones, out=torch.empty(2, device="sim"))


def test_values_leave_by_explicit_copies_only(sim: Simulator) -> None:
    tensor = torch.ones(2, device="sim")
    with pytest.raises(TypeError, match="no host memory to look at"):
        tensor.numpy()
    with pytest.raises(DeviceError, match="cannot be pickled"):
        pickle.dumps(tensor)
    assert "1." not in repr(tensor)
    assert tensor.tolist() == [1.0, 1.0]


def test_random_numbers_follow_the_seed_and_not_the_order_of_execution() -> None:
    results = []
    for seed in (0, 1, 2):
        sim = simulator(Settings(seed=seed))
        torch.manual_seed(11)
        side = sim.device.stream()
        first = torch.randn(8, device="sim")
        with sim.device.use_stream(side):
            second = torch.rand(8, device="sim")
        sim.device.synchronize()
        results.append((first.cpu().tolist(), second.cpu().tolist()))
    assert results[0] == results[1] == results[2]
    assert results[0][0] != results[0][1]


def test_a_host_generator_is_refused(sim: Simulator) -> None:
    with pytest.raises(DeviceError, match="host generator"):
        torch.ones(2, device="sim").normal_(generator=torch.Generator())


def test_setting_data_moves_the_memory_with_it(sim: Simulator) -> None:
    parameter = torch.nn.Parameter(torch.zeros(2, device="sim"))
    parameter.data = torch.ones(3, device="sim")
    assert parameter.shape == (3,)
    assert parameter.cpu().tolist() == [1.0] * 3
    with pytest.raises(DeviceError, match=r"copy it there first with \.to\('sim:0'\)"):
        parameter.data = torch.ones(3)


def test_modules_move_copy_and_load(sim: Simulator) -> None:
    host = torch.nn.Linear(3, 2)
    moved = copy.deepcopy(host).to("sim:1")
    twin = copy.deepcopy(moved)
    assert isinstance(twin.weight, torch.nn.Parameter)
    assert twin.weight.data_ptr() != moved.weight.data_ptr()
    twin.load_state_dict({"weight": torch.zeros(2, 3), "bias": torch.ones(2)})
    x = torch.randn(4, 3)
    assert torch.allclose(moved(x.to("sim:1")).cpu(), host(x))
    assert twin(x.to("sim:1")).cpu().tolist() == [[1.0, 1.0]] * 4
    assert moved.half().weight.cpu().dtype == torch.float16


@pytest.mark.parametrize("index", [0, 2])
def test_autograd_runs_on_every_device(sim: Simulator, index: int) -> None:
    weight = torch.ones(3, 2, device=f"sim:{index}", requires_grad=True)
    (torch.ones(4, 3, device=f"sim:{index}") @ weight).sum().backward()
    assert weight.grad is not None
    assert weight.grad.cpu().tolist() == [[4.0, 4.0]] * 3
    (grad,) = torch.autograd.grad((weight * weight).sum(), weight)
    assert grad.cpu().tolist() == [[2.0, 2.0]] * 3


def test_inference_mode_and_its_end(sim: Simulator) -> None:
    with torch.inference_mode():
        made = torch.ones(4, device="sim").reshape(2, 2)
        made.mul_(3)
        assert made.cpu().tolist() == [[3.0, 3.0]] * 2
    assert (made + 1).cpu().tolist() == [[4.0, 4.0]] * 2


def test_tensors_of_two_simulators_do_not_mix() -> None:
    simulator()
    old = torch.ones(2, device="sim")
    simulator()
    with pytest.raises(DeviceMix, match="two simulators"):
        torch.ones(2, device="sim") + old
