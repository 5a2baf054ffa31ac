"""What is wrong with vLLM and hardpoint together in this environment, and what to do: pure, from facts."""

from __future__ import annotations

from collections.abc import Mapping

from hardpoint.cli.doctor import Finding
from hardpoint.environment import PROBE_DEADLINE
from hardpoint_vllm.mode import VARIABLE, Mode, mode
from hardpoint_vllm.probe import Probed
from hardpoint_vllm.versions import SUPPORTED, objection

GROUPS = ("vllm.general_plugins", "vllm.platform_plugins")


def diagnose(
    version: str | None, environment: Mapping[str, str], registered: frozenset[str], probed: Probed | None
) -> tuple[Finding, ...]:
    """Findings, in the order in which vLLM would meet them.

    Args:
        version: of the installed vLLM, None if there is none.
        registered: those of `GROUPS` in which the entry point ``hardpoint`` is installed.
        probed: what an engine process would install; None if that was not asked.
    """
    wanted = mode(environment)
    if wanted is Mode.OFF:
        return ()
    if version is None:
        what = "vLLM is not installed, so there is no engine to attach to."
        do = f"To serve with it: pip install 'hardpoint[vllm]' (vllm{SUPPORTED})."
        return (Finding("error" if wanted is Mode.ON else "note", what, do),)
    reason = objection(version)
    if reason is not None:
        what, _, do = reason.partition(": ")
        return (Finding("error" if wanted is Mode.ON else "warning", f"{what}.", f"{do[:1].upper()}{do[1:]}."),)
    found = [_unregistered(group) for group in GROUPS if group not in registered]
    allowed = environment.get("VLLM_PLUGINS")
    if allowed is not None and "hardpoint" not in allowed.split(","):
        found.append(
            Finding(
                "warning",
                f"VLLM_PLUGINS={allowed!r} filters hardpoint out: nothing of it is installed in vLLM.",
                f"Add hardpoint to the list, or set {VARIABLE}=off if that is meant.",
            )
        )
    if environment.get("VLLM_TARGET_DEVICE") == "cpu" and wanted is Mode.ON:
        found.append(
            Finding(
                "note",
                "VLLM_TARGET_DEVICE=cpu makes vLLM skip platform plugins: its own CPU platform stays, all else works.",
                "Unset it if this vLLM is a CPU build anyway.",
            )
        )
    if probed is not None and probed.late:
        found.append(
            Finding(
                "warning",
                f"vLLM did not load its plugins within {probed.seconds:.0f} s, so what an engine would install is not "
                "known.",
                f"Ask again when this machine is less busy, or set {PROBE_DEADLINE} higher: vLLM may take three times "
                "that.",
            )
        )
    if probed is not None and probed.error:
        found.append(Finding("error", f"An engine would not start: {probed.error}", "Mend what the error names."))
    return tuple(found)


def _unregistered(group: str) -> Finding:
    return Finding(
        "error",
        f"The entry point hardpoint of group {group} is not installed, so vLLM does not find it.",
        "Reinstall hardpoint; an editable install that is older than the entry point does that.",
    )
