"""Attention whose output has no row that nobody wrote.

vLLM allocates the output of an attention layer with ``torch.empty`` for the padded batch (0.32: ``layers/attention/
attention.py``), a backend writes the rows of real tokens alone, and the residual takes all of it. A registered backend
is derived from the one that vLLM would use, under the same name; its implementation zeroes what is past the tokens.

A full graph is captured with a padded count and replayed with fewer tokens, and kernels choose their captured form by
that count: where such graphs are on, the count of the metadata stays, and a capture clears the whole output before the
kernel.
"""

from __future__ import annotations

import functools
from typing import Any

from hardpoint_vllm.parallel.capturing import capturing
from hardpoint_vllm.parallel.rule import buffers

# By device type: backends whose kernels write the rows of real tokens alone. Each keeps its name, which is vLLM's key.
# Those of GPUs were not run on a device yet; MLA backends are left as they are.
BACKENDS: dict[str, tuple[str, ...]] = {
    "cpu": ("CPU_ATTN",),
    "cuda": ("FLASH_ATTN", "TRITON_ATTN", "FLASHINFER"),
    "xpu": ("FLASH_ATTN", "TRITON_ATTN"),
}
REAL = "hardpoint_tokens"  # on the metadata of a step: rows of real tokens, known on the host


def install(device_type: str) -> list[str]:
    """Register the derived backends for `device_type`; names of those registered now. Imports none of them yet."""
    from vllm.v1.attention.backends.registry import AttentionBackendEnum, register_backend

    fresh = [name for name in BACKENDS.get(device_type, ()) if not installed(name)]
    for name in fresh:
        register_backend(AttentionBackendEnum[name], f"{__name__}.{name}")
    return fresh


def __getattr__(name: str) -> type[Any]:
    """``zero_tail.CPU_ATTN``: the derived backend, made when vLLM resolves it."""
    if not any(name in names for names in BACKENDS.values()):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from vllm.utils.import_utils import resolve_obj_by_qualname
    from vllm.v1.attention.backends.registry import AttentionBackendEnum

    globals()[name] = made = derived(resolve_obj_by_qualname(AttentionBackendEnum[name].value), name)
    return made


def installed(name: str) -> bool:
    """Whether backend `name` of vLLM's registry is ours."""
    from vllm.v1.attention.backends.registry import AttentionBackendEnum

    return bool(AttentionBackendEnum[name].get_path().startswith(__name__))


def derived(backend: type[Any], name: str) -> type[Any]:
    """`backend` under `name` in this module: output zero past the tokens, a builder that counts real ones."""

    @staticmethod  # type: ignore[misc]
    def get_impl_cls() -> type[Any]:
        return _implementation(backend.get_impl_cls())

    @staticmethod  # type: ignore[misc]
    def get_builder_cls() -> type[Any]:
        return _builder(backend.get_builder_cls())

    members = {"get_impl_cls": get_impl_cls, "get_builder_cls": get_builder_cls, "__doc__": backend.__doc__}
    return type(name, (backend,), members)


@functools.cache
def _implementation(stock: type[Any]) -> type[Any]:
    def forward(
        self: Any,
        layer: Any,
        query: Any,
        key: Any,
        value: Any,
        kv_cache: Any,
        attn_metadata: Any,
        output: Any = None,
        *rest: Any,
        **named: Any,
    ) -> Any:
        in_capture = output is not None and capturing()
        if in_capture:
            output.zero_()
        answer = stock.forward(self, layer, query, key, value, kv_cache, attn_metadata, output, *rest, **named)
        if output is not None and not in_capture:
            tokens = None
            if attn_metadata is not None:
                tokens = getattr(attn_metadata, REAL, attn_metadata.num_actual_tokens)
            if tokens is None or tokens < output.shape[0]:
                buffers().finish(output, tokens)
        return answer

    return type(stock.__name__, (stock,), {"forward": forward, "__doc__": stock.__doc__})


@functools.cache
def _builder(stock: type[Any]) -> type[Any]:
    def build(self: Any, common_prefix_len: int, common_attn_metadata: Any, *rest: Any, **named: Any) -> Any:
        real = real_tokens(common_attn_metadata)
        if real is not None and not _full_graphs(self):
            common_attn_metadata.num_actual_tokens = real
        metadata = stock.build(self, common_prefix_len, common_attn_metadata, *rest, **named)
        if real is not None and hasattr(metadata, "num_actual_tokens"):
            setattr(metadata, REAL, real)
        return metadata

    return type(stock.__name__, (stock,), {"build": build, "__doc__": stock.__doc__})


def real_tokens(metadata: Any) -> int | None:
    """``num_actual_tokens``, at most the end of ``query_start_loc``: padding rows never count as real (FR4).

    None where the host does not know that end; a copy from the device would wait for it.
    """
    starts = getattr(metadata, "query_start_loc_cpu", None)
    if starts is None or not len(starts):
        return None
    return min(int(metadata.num_actual_tokens), int(starts[-1]))


def _full_graphs(builder: Any) -> bool:
    """Whether attention of this engine may be replayed as part of a graph."""
    compilation = getattr(getattr(builder, "vllm_config", None), "compilation_config", None)
    mode = getattr(compilation, "cudagraph_mode", None)
    return mode is not None and bool(mode.has_full_cudagraphs())
