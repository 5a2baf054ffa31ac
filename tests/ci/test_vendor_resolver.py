"""The reader of vendors' packages, on small wheels made here: names are found where Python would find them."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "ci"))

from vendor_api.archive import Archive
from vendor_api.found import Found
from vendor_api.resolve import Resolver

FILES = {
    "torch_npu/__init__.py": "raise SystemExit('imported')",
    "torch_npu/npu/__init__.py": """
from .utils import current, Thing as Renamed
from .all import *
from .hidden import *
import torch_npu.npu.utils
config = Config()
class Config:
    def __setattr__(self, name, value):
        if name == "allow": pass
old = current
""",
    "torch_npu/npu/utils.py": """
try:
    import acl
except ImportError:
    acl = None
if acl:
    def current(device=None) -> "Thing": ...
else:
    def current(): ...
class Base:
    def far(self, x, *, y=1): ...
class Thing(Base, torch_npu._C._Native):
    size: int = 3
    def __init__(self, a, b=2): self.made = a
    @property
    def prop(self): ...
    @staticmethod
    def still(x): ...
""",
    "torch_npu/npu/all.py": "__all__ = ['public']\ndef public(): ...\ndef kept(): ...",
    "torch_npu/npu/hidden.py": "def shown(): ...\ndef _private(): ...",
    "torch_npu/csrc/aten/npu_native_functions_by_codegen.yaml": """
custom:
  - func: cast(Tensor self, int[2] size=[1, 2], *, str mode="a,b") -> Tensor
  - func: cast.out(Tensor self, Tensor(a!) out) -> Tensor(a!)
""",
    "torch_npu/lib/libtorch_npu.so": "\0raw_handle\0_npu_setDevice\0",
    "torch_npu/_ext_C.abi3.so": "\0junk(1)\0moe_sum(Tensor input,\n   Tensor! output) -> ()\0desc()->a\0",
}


@pytest.fixture(scope="module")
def resolver(tmp_path_factory: pytest.TempPathFactory) -> Resolver:
    wheel = tmp_path_factory.mktemp("wheel") / "torch_npu-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, text in FILES.items():
            archive.writestr(name, text)
    return Resolver(Archive(wheel, ("torch_npu",)))


UTILS = "torch_npu/npu/utils.py"


@pytest.mark.parametrize(
    ("name", "kind", "signatures"),
    [
        ("torch_npu", "module", ()),
        ("torch_npu.npu", "module", ()),
        ("torch_npu.npu.current", "function", ("(device=None)", "()")),
        ("torch_npu.npu.old", "function", ("(device=None)", "()")),
        ("torch_npu.npu.Renamed", "class", ("(a, b=2)",)),
        ("torch_npu.npu.Renamed.far", "function", ("(x, *, y=1)",)),
        ("torch_npu.npu.Renamed.still", "function", ("(x)",)),
        ("torch_npu.npu.Renamed.prop", "value", ()),
        ("torch_npu.npu.Renamed.size", "value", ()),
        ("torch_npu.npu.Renamed.made", "value", ()),
        ("torch_npu.npu.Renamed.raw_handle", "native", ()),
        ("torch_npu.npu.Renamed.no_handle", "missing", ()),
        ("torch_npu.npu.public", "function", ("()",)),
        ("torch_npu.npu.kept", "missing", ()),
        ("torch_npu.npu.shown", "function", ("()",)),
        ("torch_npu.npu._private", "missing", ()),
        ("torch_npu.npu.utils", "module", ()),
        ("torch_npu.npu.config.allow", "value", ()),
        ("torch_npu.npu.config.deny", "missing", ()),
        ("torch_npu._C._npu_setDevice", "native", ()),
        ("torch_npu._C._npu_exchange", "missing", ()),
        ("torch_npu._ext_C", "module", ()),
        ("torch_npu.nothing", "missing", ()),
        ("other.thing", "missing", ()),
        ("torch.ops.npu.cast.out", "op", ("(Tensor self, Tensor(a!) out) -> Tensor(a!)",)),
        ("torch.ops._ext_C.moe_sum", "op", ("(Tensor input, Tensor! output) -> ()",)),
        ("torch.ops._ext_C.junk", "missing", ()),
        ("torch.ops._ext_C.desc", "missing", ()),
    ],
)
def test_names_are_found_where_python_finds_them(
    resolver: Resolver, name: str, kind: str, signatures: tuple[str, ...]
) -> None:
    found = resolver.find(name)
    assert (found.kind, found.signatures) == (kind, signatures)


def test_both_overloads_of_an_op_count_and_torch_npu_exports_it(resolver: Resolver) -> None:
    found = resolver.find("torch.ops.npu.cast")
    assert len(found.signatures) == 2
    assert resolver.find("torch_npu.cast") == found


def test_what_a_call_gives_is_read_from_its_annotation(resolver: Resolver) -> None:
    assert resolver.find("torch_npu.npu.current").returns == "torch_npu.npu.utils.Thing"
    assert resolver.find("torch_npu.npu.Renamed").returns == "torch_npu.npu.utils.Thing"
    assert resolver.find("torch_npu.npu.public").returns is None


def test_a_row_survives_its_way_through_json() -> None:
    for found in (Found("missing"), Found("class", ("(a)",), "x.py", "a.B"), Found("op", ("(Tensor a) -> ()",))):
        assert Found.of_json(found.as_json()) == found
