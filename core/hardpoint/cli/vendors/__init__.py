"""What stands between this machine and a vendor's devices, told from files and metadata; nothing is imported."""

from hardpoint.cli.vendors.facts import VENDORS, VendorFacts
from hardpoint.cli.vendors.machine import Machine
from hardpoint.cli.vendors.state import VendorState, Verdict, judge
from hardpoint.cli.vendors.versions import Trouble, companions_in_trouble

__all__ = ["VENDORS", "Machine", "Trouble", "VendorFacts", "VendorState", "Verdict", "companions_in_trouble", "judge"]
