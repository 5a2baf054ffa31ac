"""Moves the bytes of a planned update, at the speed of the link, and digests them on the way."""

from hardpoint.sync.stream.audiences import audiences_of
from hardpoint.sync.stream.boxes import BoxKernels, Launch, TorchBoxes, sums_length
from hardpoint.sync.stream.commit import bind_commit
from hardpoint.sync.stream.cuts import DIRECT_BYTES, Cut, cuts_of
from hardpoint.sync.stream.fed import FedSender, Feed, FeedPlan, feed_plan
from hardpoint.sync.stream.link import CommunicatorLink, Link, open_link
from hardpoint.sync.stream.receiver import Keeper, StreamReceiver
from hardpoint.sync.stream.sender import StreamSender
from hardpoint.sync.stream.stamp import STAMP_BYTES, stamp_of
from hardpoint.sync.stream.undo import Undo

__all__ = [
    "DIRECT_BYTES",
    "STAMP_BYTES",
    "BoxKernels",
    "CommunicatorLink",
    "Cut",
    "FedSender",
    "Feed",
    "FeedPlan",
    "Keeper",
    "Launch",
    "Link",
    "StreamReceiver",
    "StreamSender",
    "TorchBoxes",
    "Undo",
    "audiences_of",
    "bind_commit",
    "cuts_of",
    "feed_plan",
    "open_link",
    "stamp_of",
    "sums_length",
]
