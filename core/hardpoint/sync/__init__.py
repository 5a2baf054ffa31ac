"""Weight updates that arrive whole, verified and agreed on by every rank, or not at all."""

from hardpoint.sync.manifest import DEFAULT_BUCKET_BYTES, LIMITS, Manifest, ManifestLimits, TensorSpec
from hardpoint.sync.outcome import Progress, ProgressCallback, Received, SyncOutcome, UpdateAborted
from hardpoint.sync.receiver import Receiver
from hardpoint.sync.rendezvous import join_store, serve_store
from hardpoint.sync.sender import Sender

__all__ = [
    "DEFAULT_BUCKET_BYTES",
    "LIMITS",
    "Manifest",
    "ManifestLimits",
    "Progress",
    "ProgressCallback",
    "Received",
    "Receiver",
    "Sender",
    "SyncOutcome",
    "TensorSpec",
    "UpdateAborted",
    "join_store",
    "serve_store",
]
