"""The judge of two runs, which the GPU test of vLLM relies on."""

from __future__ import annotations

from support.logprobs import Step, difference, judge


def run(*steps: tuple[int, float, float]) -> list[list[Step]]:
    """One request that chooses between tokens 1 and 2: (taken, log-probability of 1, of 2)."""
    return [[(token, {1: one, 2: two}) for token, one, two in steps]]


PEER = run((1, -0.5, -1.0), (2, -0.9, -0.8), (1, -0.1, -3.0))


def test_equal_runs_and_small_differences_pass() -> None:
    assert judge(PEER, PEER, PEER) is None
    assert judge(PEER, PEER, run((1, -0.52, -1.0), (2, -0.9, -0.81), (1, -0.1, -3.0))) is None


def test_a_difference_above_the_noise_is_told() -> None:
    ours = run((1, -0.6, -1.0), (2, -0.9, -0.8), (1, -0.1, -3.0))
    assert "differ by 0.1000" in str(judge(PEER, PEER, ours))
    noisy = run((1, -0.56, -1.0), (2, -0.9, -0.8), (1, -0.1, -3.0))
    assert judge(PEER, noisy, ours) is None, "a peer that is as noisy itself"


def test_tokens_may_part_only_where_the_peer_hardly_preferred_its_own() -> None:
    near = run((1, -0.5, -1.0), (1, -0.8, -0.9), (2, -3.0, -0.1))
    noisy = run((1, -0.45, -1.0), (2, -0.9, -0.8), (1, -0.1, -3.0))
    assert judge(PEER, noisy, near) is None and difference(PEER, near).parted == ((0, 1),)
    assert "parts at step 1" in str(judge(PEER, PEER, near))
    far = run((2, -1.0, -0.5), (2, -0.9, -0.8), (1, -0.1, -3.0))
    assert "parts at step 0" in str(judge(PEER, PEER, far))
    nan = run((1, float("nan"), -1.0), (2, -0.9, -0.8), (1, -0.1, -3.0))
    assert judge(PEER, PEER, nan) is not None
