"""ACME One, put together from parts. What a part does not override is hardpoint's own and already lawful."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hardpoint import Backend, Capabilities, HostDevice
from hardpoint.communicator import communicator_factory
from hardpoint.dp import DpRule
from hardpoint.moe import ReferenceMoELayout
from hardpoint_acme import hardpoint_info
from hardpoint_acme.attention import AcmeAttentionBuffers


def build(options: Mapping[str, Any]) -> Backend:
    """The backend of this process.

    `options` holds what follows the name in HARDPOINT_BACKEND ("acme:eco" gives {"profile": "eco"}). Refuse what you do
    not know: a setting that is ignored in silence is a support call at night.
    """
    if options:
        raise ValueError(f"the backend 'acme' takes no options, found {dict(options)}")

    # Facts. What you declare is tested; what you do not declare is shown as "not claimed". Both are honest; a claim
    # that fails is not. Start small and grow.
    capabilities = Capabilities(
        dtypes=frozenset({"float32", "float16", "bfloat16", "int64", "int32", "uint8", "bool"}),
        communication_dtypes=frozenset({"float32", "float16", "bfloat16", "int64", "int32", "uint8"}),
        reduce_ops=frozenset({"sum", "min", "max"}),
        ranks_share_device=True,
    )
    return Backend(
        info=hardpoint_info(),
        # Yours: TorchDevice("acme", visibility_variable="ACME_VISIBLE_CARDS"), if your torch extension provides
        # torch.acme with streams and events; else a class with the methods of hardpoint.device.Device.
        device=HostDevice(),
        # Collectives over torch.distributed, with deadlines and names. It takes the library that torch has registered
        # for your device type (here gloo).
        communicator=communicator_factory("cpu", capabilities),
        capabilities=capabilities,
        # The ACME matrix unit reads expert weights transposed, padded to 32: a fact, so it is data and no code.
        moe_layout=ReferenceMoELayout(axes="[E,K,N]", intermediate_multiple=32),
        # The ACME fabric wants equal token counts, divisible by the tensor-parallel size, whenever experts are spread.
        dp_rule=DpRule(multiple_of="tp", uniform_when="ep"),
        # The one part that ACME does in its own way: see there.
        attention_buffers=AcmeAttentionBuffers(),
        # Not overridden: launcher (runs Python kernels), graphs (refused aloud), memory_map (host memory).
    )
