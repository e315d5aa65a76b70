"""What a kernel is, by its name: communication of any library, and classes of computation.

Traces hold names and no purpose. A library that communicates inside kernels of its own (DeepEP, NVSHMEM) is invisible
to a reader that knows NCCL's names alone: DeepSeek-V3's own trace then shows no communication at all.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from tokenstone.errors import InvalidValue

COMMUNICATION = "communication"
MEMORY = "memory"

_COMMUNICATION: tuple[str, ...] = (
    r"nccl",  # NCCL, and RCCL, which kept its names
    r"rccl",
    r"mscclpp|msccl_",  # MSCCL++
    r"deep_?ep::",  # DeepEP
    r"dpsk::ep::",  # DeepEP inside DeepSeek
    r"nvshmem",
    r"hcom_|hccl|hcclaicpu",  # Huawei HCCL
    r"(^|::)all_?(reduce|gather|to_?all)(_|$)|reduce_scatter_kernel|cross_device_reduce",  # vLLM, TensorRT-LLM
    r"one_?shot_all_reduce|two_?shot_all_reduce|multimem_",  # PyTorch symmetric memory
    r"^(gloo|mpi|ucc|ccl|xccl|mccl|cncl|bkcl):",  # as the profiler names host-side collectives
    r"oneccl|ccl_kernel",  # Intel
    r"\bcncl|\bbkcl|\bmccl",  # Cambricon, Kunlun, Moore Threads
)
"""Patterns of communication, by library. A wrong match would count computation as waiting, so each is narrow."""

_CLASSES: tuple[tuple[str, str], ...] = (
    ("attention", r"flash|fmha|attn|attention|mla_|paged"),
    ("optimizer", r"adam|multi_tensor_apply|optimizer"),
    ("normalisation", r"layer_?norm|rms_?norm|\bln_(fwd|bwd)|softmax"),
    ("routing", r"topk|moe|expert|permute|router|group_indices|dispatch|combine"),
    ("data movement", r"transpose|copy|gather|scatter|index|cat_array|catarray|embedding"),
    ("quantisation", r"quant|_cast_|cast_back|per_token|per_channel"),
    ("matrix product", r"gemm|xmma|nvjet|cublas|wgmma|cutlass.*mm|matmul|splitk"),
    ("elementwise", r"elementwise|vectorized|reduce|fill|rotary|distribution|triton_|foreach|dropout|gelu|silu|swiglu"),
)
"""Classes of computation, the first match wins."""

_BASE = re.compile(r"^(?:void |static |__global__ )*((?:\(anonymous namespace\)|[^<(])+)")


class Classifier:
    """Tells a kernel's class from its name and category. `communication`: further patterns, of the user's own."""

    def __init__(self, communication: Sequence[str] = ()) -> None:
        for pattern in communication:
            try:
                re.compile(pattern)
            except re.error as error:
                raise InvalidValue(
                    f"{pattern!r} is no regular expression: {error}", where="--communication",
                    hint="see the syntax of Python's re",
                ) from None  # fmt: skip
        self._communication = re.compile("|".join(f"(?:{p})" for p in (*_COMMUNICATION, *communication)), re.IGNORECASE)
        self._classes = [(name, re.compile(pattern, re.IGNORECASE)) for name, pattern in _CLASSES]
        self._known: dict[tuple[str, str], str] = {}

    def classify(self, name: str, category: str) -> str:
        """The class of a device event: "communication", "memory", a class of computation, or "other"."""
        key = (name, category)
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = self._find(name, category)
        return known

    def communicates(self, name: str) -> bool:
        """Whether a name is one of communication."""
        return self._communication.search(name) is not None

    def _find(self, name: str, category: str) -> str:
        if self.communicates(name):
            return COMMUNICATION
        if category in {"gpu_memcpy", "gpu_memset"} or name.startswith(("Memcpy", "Memset")):
            return MEMORY
        base = _BASE.match(name)
        # A template's arguments name other things too: the function's own name is asked first.
        for text in (base.group(1) if base else name, name):
            for kind, pattern in self._classes:
                if pattern.search(text):
                    return kind
        return "other"
