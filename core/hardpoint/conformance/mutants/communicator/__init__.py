"""Communicators with a fault, one idea per file, and ones that are different and right."""

from hardpoint.conformance.mutants._communicator_variants import VARIANTS

legal_variants = VARIANTS
