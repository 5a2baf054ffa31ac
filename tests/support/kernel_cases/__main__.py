"""``python -m support.kernel_cases GROUP [DEVICE]``: run a group of cases, a line each; 1 if one failed.

On the host TRITON_INTERPRET=1 has to be set before Triton is imported, hence a process of its own.
"""

from __future__ import annotations

import importlib
import sys
import time
import traceback


def main() -> int:
    """Run them."""
    group, device = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "cpu"
    module = importlib.import_module(f"support.kernel_cases.{group}")
    failed = 0
    for name in [name for name in vars(module) if name.startswith("case_")]:
        begin = time.perf_counter()
        try:
            getattr(module, name)(device)
        except Exception:  # noqa: BLE001 - the point is to go on and to tell
            failed += 1
            traceback.print_exc(file=sys.stdout)
            print(f"FAILED {group}.{name}")
        else:
            print(f"ok {group}.{name} {time.perf_counter() - begin:.1f} s", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
