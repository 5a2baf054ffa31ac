"""The peers' own kernel files in a folder that Python can import where their packages cannot be installed.

    python benchmarks/peers.py OUT --vllm SITE --fla SITE

SITE is a folder that holds the package. vLLM's files are copied as they are; the few helpers that they import from the
rest of vLLM are written anew beside them. fla is copied whole (Python only). Then PYTHONPATH=OUT finds them.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

OPS = "third_party/flash_linear_attention/ops"
FILES = [
    *(
        f"{OPS}/{name}.py"
        for name in (
            "chunk", "chunk_delta_h", "chunk_o", "chunk_scaled_dot_kkt", "cumsum", "fused_gdn_prefill_post_conv",
            "fused_recurrent", "fused_sigmoid_gating", "index", "l2norm", "layernorm_guard", "op", "solve_tril",
            "utils", "wy_fast",
        )
    ),
    "model_executor/layers/mamba/ops/causal_conv1d.py",
]  # fmt: skip
STAND_INS = {
    "triton_utils/__init__.py": """
import triton
import triton.language as tl
import triton.language.extra.libdevice as tldevice
LOG2E, LOGE2, HAS_TRITON = 1.4426950408889634, 0.6931471805599453, True
""",
    "platforms/__init__.py": """
class _Platform:
    def is_cuda_alike(self): return True
    def is_cuda(self): return True
    def is_rocm(self): return False
    def is_xpu(self): return False
    def is_cpu(self): return False
current_platform = _Platform()
""",
    "utils/math_utils.py": """
RCP_LN2 = 1.4426950408889634
def cdiv(a, b): return -(-a // b)
def next_power_of_2(n): return 1 if n < 1 else 1 << (n - 1).bit_length()
""",
    "utils/platform_utils.py": """
import functools, torch
@functools.lru_cache
def num_compute_units(index=0): return torch.cuda.get_device_properties(index).multi_processor_count
""",
    "v1/attention/backends/utils.py": "PAD_SLOT_ID, NULL_BLOCK_ID = -1, 0\n",
}


def pack(out: Path, vllm: Path, fla: Path) -> None:
    """Fill `out`; whatever was in it is removed."""
    shutil.rmtree(out, ignore_errors=True)
    for name in FILES:
        target = out / "vllm" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(vllm / "vllm" / name, target)
    for name, text in STAND_INS.items():
        target = out / "vllm" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
    for folder in {path.parent for path in (out / "vllm").rglob("*.py")} | {out / "vllm"}:
        while folder != out:
            (folder / "__init__.py").touch()
            folder = folder.parent
    shutil.copytree(fla / "fla", out / "fla", ignore=shutil.ignore_patterns("__pycache__"))


def main() -> None:
    """Pack."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--vllm", type=Path, required=True)
    parser.add_argument("--fla", type=Path, required=True)
    options = parser.parse_args()
    pack(options.out, options.vllm, options.fla)


if __name__ == "__main__":
    main()
