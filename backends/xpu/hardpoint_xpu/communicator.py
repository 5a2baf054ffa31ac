"""`XpuCommunicatorFactory`: XCCL, or host memory where XCCL is known to hang. All ranks take the same way."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, replace

from hardpoint import Capabilities
from hardpoint.communicator import GLOO_DTYPES, Communicator, Rendezvous, TorchCommunicator, Verdict
from hardpoint.communicator.guarded import Guarded
from hardpoint.communicator.host_staged import HostStaged
from hardpoint.device import Device, visible_devices
from hardpoint.errors import CommunicatorError
from hardpoint_xpu.facts import KNOWN_BAD, VARIABLE, KnownBad
from hardpoint_xpu.runtime import XpuRuntime

_logger = logging.getLogger("hardpoint.xpu")


@dataclass(frozen=True)
class XpuCommunicatorFactory:
    """Makes the communicator of one `Rendezvous`.

    Attributes:
        known_bad: configurations in which XCCL is not used.
    """

    runtime: XpuRuntime
    device: Device
    capabilities: Capabilities
    known_bad: tuple[KnownBad, ...] = KNOWN_BAD

    def __call__(self, rendezvous: Rendezvous, /) -> Communicator:
        """Open it; every rank has to come. DeviceError for a device that does not exist, before anybody is waited for.

        Whether XCCL can be used is voted on over a host group: a mask is a fact of one rank, the transport one of all.
        """
        self.device.torch_device(rendezvous.device_index)
        if rendezvous.world_size == 1:
            return self._native(rendezvous)
        host = self._host(rendezvous)
        verdict = self._vote(host, rendezvous.device_index)
        if verdict.unanimous:
            host.close()
            return self._native(rendezvous)
        if verdict.missing:
            host.close()
            raise CommunicatorError(
                f"communicator {rendezvous.name!r}: rank(s) {', '.join(map(str, verdict.missing))} did not say whether "
                "XCCL can be used; they have ended or hang."
            )
        if rendezvous.rank == 0:
            whose = "; ".join(f"rank {rank}: {why}" for rank, why in sorted(verdict.objections.items()))
            _logger.warning(
                "hardpoint: communicator %r goes through host memory (gloo) instead of XCCL, which is slower: %s.",
                rendezvous.name,
                whose,
            )
        return HostStaged(host, self.device, rendezvous.device_index)

    def _native(self, rendezvous: Rendezvous) -> Communicator:
        declared = self.capabilities
        native = self.runtime.native_communicator(rendezvous, declared.communication_dtypes, declared.reduce_ops)
        return Guarded(native, self.device, rendezvous.device_index)

    def _host(self, rendezvous: Rendezvous) -> TorchCommunicator:
        declared = self.capabilities
        return TorchCommunicator(
            replace(rendezvous, name=f"{rendezvous.name}/host"),
            device_type="cpu",
            library="gloo",
            carried=declared.communication_dtypes & GLOO_DTYPES,
            reduce_ops=declared.reduce_ops,
        )

    def _vote(self, host: Communicator, device_index: int) -> Verdict:
        mask = os.environ.get(VARIABLE) or ""
        mine = matching(self.known_bad, mask, self.runtime.library_version(), self.runtime.device_name(device_index))
        # A mask that differs is the digest's business: the vote compares it between the ranks.
        compare = any(bad.masks_differ for bad in self.known_bad)
        reason = f"{mine.reason} ({mine.source})" if mine is not None else ""
        return host.vote(mine is None, "use XCCL", reason=reason, digest=f"{VARIABLE}={mask}" if compare else "")


def matching(known_bad: tuple[KnownBad, ...], mask: str, oneccl: tuple[int, ...], device: str) -> KnownBad | None:
    """The first known-bad configuration that this rank is in; pure. `masks_differ` is not for one rank to see."""
    cards = visible_devices(VARIABLE, mask or None)
    for bad in known_bad:
        if bad.masks_differ or (bad.one_card and (cards is None or len(cards) != 1)):
            continue
        if bad.oneccl is not None and not (oneccl and bad.oneccl[0] <= oneccl < bad.oneccl[1]):
            continue
        variable, value = bad.unless
        if bad.device in device and not (variable and os.environ.get(variable) == value):
            return bad
    return None
