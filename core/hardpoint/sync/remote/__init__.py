"""The transaction between processes: messages through a torch.distributed store, buckets over communicators.

Nothing here decides anything: `Coordinator` and `Participant` do. This carries what they say, and tells them the time.
"""

from hardpoint.sync.remote.data import DataPlane, Opener
from hardpoint.sync.remote.directory import Directory, Entry, Proposal
from hardpoint.sync.remote.mailbox import Mailbox
from hardpoint.sync.remote.receiver import ReceiverLink
from hardpoint.sync.remote.trainer import TrainerLink

__all__ = [
    "DataPlane",
    "Directory",
    "Entry",
    "Mailbox",
    "Opener",
    "Proposal",
    "ReceiverLink",
    "TrainerLink",
]
