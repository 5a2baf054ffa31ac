"""Beside another distribution's platform plugin, installed for real: it starts, and sync and the tripwire stay.

The plugin does what vllm-ascend 0.26.0rc1 does when its worker starts, after general plugins ran: it registers layers
of its own under vLLM's names (``utils.py:780``), and assigns its own post-load processing to vLLM's modules
(``patch/worker/patch_process_weights_after_loading.py:55``).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from support.distributions import Site

pytestmark = pytest.mark.vllm
PLUGIN = """
def register():
    return "other_platform.OtherPlatform"

def start_worker():
    from vllm.model_executor.custom_op import PluggableLayer, CustomOp
    from vllm.model_executor.layers.fused_moe.unquantized_fused_moe_method import UnquantizedFusedMoEMethod
    from vllm.model_executor.model_loader import base_loader, utils

    class Layer(PluggableLayer):
        pass

    class Method(UnquantizedFusedMoEMethod):
        pass

    CustomOp.register_oot(_decorated_op_cls=Layer, name="KimiGatedDeltaNetAttention")
    CustomOp.register_oot(_decorated_op_cls=Method, name="UnquantizedFusedMoEMethod")

    def process_weights_after_loading(model, model_config, target_device):
        model.processed = True

    utils.process_weights_after_loading = process_weights_after_loading
    base_loader.process_weights_after_loading = process_weights_after_loading
"""
PLATFORM = """
from vllm.platforms.cpu import CpuPlatform

class OtherPlatform(CpuPlatform):
    pass
"""
PROGRAM = """
import json
from vllm.platforms import current_platform
from vllm.plugins import load_general_plugins

current_platform.device_type
load_general_plugins()

import torch
from hardpoint.errors import HardpointError
from hardpoint_vllm import overrides
from hardpoint_vllm.compat.rows import here
from hardpoint_vllm.patching import is_wrapped
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.model_executor.layers.mamba.gdn import kimi_gdn_linear_attn
from vllm.model_executor.model_loader import base_loader, utils
import other_plugin

other_plugin.start_worker()
lost = [is_wrapped(module, "process_weights_after_loading") for module in (base_loader, utils)]

class Loader(base_loader.BaseModelLoader):
    def __init__(self): pass
    def download_model(self, model_config): pass
    def load_weights(self, model, model_config): pass

try:
    Loader().load_model(None, None)  # ends where vLLM looks at its config: the hooks are back before that
except AttributeError:
    pass
back = [is_wrapped(module, "process_weights_after_loading") for module in (base_loader, utils)]
model = torch.nn.Linear(1, 1)
base_loader.process_weights_after_loading(model, None, None)
print(json.dumps({
    "here": here(),
    "table": [(row.owner, row.installed) for row in overrides.table()],
    "engine": "hardpoint" in WeightTransferEngineFactory._registry,
    "lost": lost, "back": back, "plugins own ran": model.processed,
}))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder: Path = tmp_path_factory.mktemp("beside")
    site = Site(folder / "site", {"VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"})
    site.install(
        "vllm-other",
        {"other_plugin": PLUGIN, "other_platform": PLATFORM},
        "[vllm.platform_plugins]\nother = other_plugin:register\n",
        version="0.26.0rc1",
    )
    ran = site.python(PROGRAM, HARDPOINT_BACKEND="cpu")
    assert ran.returncode == 0, ran.stderr[-3000:]
    answer: dict[str, Any] = json.loads(ran.stdout.strip().splitlines()[-1])
    return answer


def test_the_platform_is_the_plugins_and_doctor_has_its_name(found: dict[str, Any]) -> None:
    assert found["here"]["platform"] == "OtherPlatform (of vllm-other 0.26.0rc1)"
    assert "hardpoint_vllm.moe.unquantized" in found["here"]["left"]
    assert [(row["name"], row["state"]) for row in found["here"]["shims"]] == [("rope-list-keys", "retired")]


def test_it_registers_its_layers_and_sync_stays(found: dict[str, Any]) -> None:
    table = dict(found["table"])
    assert found["engine"]
    for owner in ("tripwire.hook", "weight_transfer.core_hook", "weight_transfer.first_load", "compat.keep"):
        assert table[f"hardpoint_vllm.{owner}"]
    assert not [owner for owner in table if "moe.unquantized" in owner or "triton.gdn" in owner or ".sleep" in owner]


def test_the_tripwire_is_put_back_around_the_plugins_own_processing(found: dict[str, Any]) -> None:
    assert found["lost"] == [False, False]
    assert found["back"] == [True, True]
    assert found["plugins own ran"]
