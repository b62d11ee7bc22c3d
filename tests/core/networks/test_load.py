"""Loading checkpoints: what works comes back as float32, what does not is refused without being run."""

from __future__ import annotations

import contextlib
import io
import json
import pickle
import pickletools
import random
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from core.errors import CheckpointError
from core.networks import archive
from core.networks.load import load_state_dict

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.tensor([1.0, -1.0])}


def save(path: Path, what: Any, *, legacy: bool = False, **options: Any) -> Path:
    torch.save(what, path, _use_new_zipfile_serialization=not legacy, **options)
    return path


def refused(path: Path) -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        load_state_dict(path)
    assert caught.value.field == "file"
    return caught.value


def same(found: dict[str, Tensor], expected: dict[str, Tensor] = STATE) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[k], expected[k]) for k in expected)


# --- what loads --------------------------------------------------------------------------------


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: OrderedDict(s),
        lambda s: {"state_dict": s, "epoch": 3, "best": 0.5},
        lambda s: {"model": s, "optimizer": {"state": {0: {"momentum": torch.ones(3)}}}},
        lambda s: {"model_state_dict": s},
        lambda s: {"net": s, "acc": 91.0},
        lambda s: {"ema": {"state_dict": s}},
        lambda s: {f"module.{k}": v for k, v in s.items()},
        lambda s: {"state_dict": {f"module._orig_mod.{k}": v for k, v in s.items()}},
        lambda s: {"state_dict": {f"model.{k}": v for k, v in s.items()}},
        lambda s: {f"module.{k}": v for k, v in s.items()} | {"n_averaged": torch.tensor(3)},
        lambda s: {k: nn.Parameter(v) for k, v in s.items()},
    ],
)
def test_every_usual_wrapping_loads(tmp_path: Path, wrap: Callable[[Any], Any], legacy: bool) -> None:
    assert same(load_state_dict(save(tmp_path / "c.pt", wrap(STATE), legacy=legacy)))


def test_a_real_networks_state_dict_loads_in_both_forms(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2))
    for legacy in (False, True):
        found = load_state_dict(save(tmp_path / "c.pth", network.state_dict(), legacy=legacy))
        assert same(found, network.state_dict())


def test_safetensors_are_found_by_content_not_by_name(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    safetensors.torch.save_file(STATE, path, metadata={"format": "pt"})
    assert same(load_state_dict(path))


def test_a_zip_checkpoint_loads_under_any_name(tmp_path: Path) -> None:
    assert same(load_state_dict(save(tmp_path / "weights.safetensors", STATE)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floats_become_float32_and_integers_stay(tmp_path: Path, dtype: torch.dtype) -> None:
    state = {"w": torch.tensor([0.5, -2.0], dtype=dtype), "n": torch.tensor(7)}
    found = load_state_dict(save(tmp_path / "c.pt", state))
    assert found["w"].dtype is torch.float32 and found["n"].dtype is torch.int64
    assert found["w"].tolist() == [0.5, -2.0]


def test_views_and_tied_weights_get_memory_of_their_own(tmp_path: Path) -> None:
    big = torch.arange(1000.0)
    found = load_state_dict(
        save(tmp_path / "c.pt", {"view": big[3:5], "all": big, "t": big.view(10, 100).t()})
    )
    assert found["view"].untyped_storage().nbytes() == 8
    assert found["t"].is_contiguous() and torch.equal(found["t"], big.view(10, 100).t())


# --- code is never run --------------------------------------------------------------------------


def _text(marker: Path) -> bytes:
    return str(marker).encode()


def _touch_by_reduce(marker: Path) -> bytes:
    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (marker,))

    return pickle.dumps({"a": Evil()}, protocol=2)


def _open_by_reduce(marker: Path) -> bytes:
    return (
        b"\x80\x02cio\nopen\nX"
        + struct.pack("<I", len(_text(marker)))
        + _text(marker)
        + b"X\x01\0\0\0w\x86R."
    )


def _exec_by_inst(marker: Path) -> bytes:
    return b"(S'" + f'open({str(marker)!r}, "w")'.encode().replace(b"'", b"\\'") + b"'\nibuiltins\nexec\n."


def _system_by_obj(marker: Path) -> bytes:
    return (
        b"\x80\x02(cos\nsystem\nX"
        + struct.pack("<I", len(_text(marker)) + 6)
        + b"touch "
        + _text(marker)
        + b"o."
    )


def _exec_by_stack_global(marker: Path) -> bytes:
    code = f"open({str(marker)!r}, 'w')".encode()
    return b"\x80\x04\x8c\x08builtins\x8c\x04exec\x93\x8c" + bytes([len(code)]) + code + b"\x85R."


def _path_by_newobj_ex(marker: Path) -> bytes:
    name = _text(marker)
    return b"\x80\x04cio\nFileIO\n\x8c" + bytes([len(name)]) + name + b"\x8c\x01w\x86}\x92."


def _build_by_global(marker: Path) -> bytes:
    # BUILD hands the dict to the object's __setstate__ or updates its attributes.
    return b"\x80\x02cos\nsystem\n}X\x01\0\0\0aK\x01sb."


def _call_by_allowed_class(marker: Path) -> bytes:
    # OBJ on a class that state dicts do use: still an instruction that torch.save never writes.
    return b"\x80\x02(ccollections\nOrderedDict\no."


ATTACKS: list[Callable[[Path], bytes]] = [
    _touch_by_reduce,
    _open_by_reduce,
    _exec_by_inst,
    _system_by_obj,
    _exec_by_stack_global,
    _path_by_newobj_ex,
    _build_by_global,
    _call_by_allowed_class,
]


def _as_plain(pickled: bytes, path: Path) -> None:
    path.write_bytes(pickled)


def _as_legacy(pickled: bytes, path: Path) -> None:
    good = io.BytesIO()
    torch.save(STATE, good, _use_new_zipfile_serialization=False)
    good.seek(0)
    head = b"".join(_one_pickle(good) for _ in range(3))
    path.write_bytes(head + pickled + pickle.dumps([], protocol=2))


def _one_pickle(stream: io.BytesIO) -> bytes:
    begin = stream.tell()
    for _ in pickletools.genops(stream):
        pass
    return stream.getvalue()[begin : stream.tell()]


def _as_zip(pickled: bytes, path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", pickled)
        file.writestr("archive/version", "3\n")
        file.writestr("archive/byteorder", "little")


@pytest.mark.parametrize("form", [_as_plain, _as_legacy, _as_zip])
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__.strip("_"))
def test_code_in_a_pickle_never_runs(
    tmp_path: Path, attack: Callable[[Path], bytes], form: Callable[[bytes, Path], None]
) -> None:
    marker, path = tmp_path / "ran", tmp_path / "c.pt"
    form(attack(marker), path)
    error = refused(path)
    assert error.code == "unsafe_pickle"
    assert not marker.exists()


@pytest.mark.parametrize(
    "attack", [_touch_by_reduce, _open_by_reduce, _exec_by_inst, _system_by_obj, _exec_by_stack_global]
)
def test_the_attacks_are_real(tmp_path: Path, attack: Callable[[Path], bytes]) -> None:
    # Otherwise the test above proves nothing.
    marker = tmp_path / "ran"
    pickle.loads(attack(marker))
    assert marker.exists()


def test_weights_only_refuses_the_same_files_without_our_scan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("core.networks.pickles.refuse_unsafe", lambda found: None)
    for index, attack in enumerate(ATTACKS[:-1]):
        marker, path = tmp_path / f"ran{index}", tmp_path / f"{index}.pt"
        _as_zip(attack(marker), path)
        assert refused(path).code in ("unsafe_pickle", "truncated_file")
        assert not marker.exists()


def test_the_refusal_names_what_the_pickle_asked_for(tmp_path: Path) -> None:
    _as_zip(_system_by_obj(tmp_path / "ran"), tmp_path / "c.pt")
    assert "os.system" in refused(tmp_path / "c.pt").detail


def test_objects_that_training_scripts_add_are_refused_and_named(tmp_path: Path) -> None:
    path = save(tmp_path / "c.pt", {"state_dict": STATE, "best": np.float64(0.5)})
    error = refused(path)
    assert error.code == "unsafe_pickle" and "numpy" in error.detail and "state_dict" in error.detail


@pytest.mark.parametrize("legacy", [False, True])
def test_a_whole_pickled_model_says_how_to_save_a_state_dict(tmp_path: Path, legacy: bool) -> None:
    error = refused(save(tmp_path / "c.pt", nn.Sequential(nn.Linear(2, 2)), legacy=legacy))
    assert error.code == "not_a_state_dict" and "state_dict()" in error.detail


def test_a_newer_pickle_protocol_is_named(tmp_path: Path) -> None:
    error = refused(save(tmp_path / "c.pt", STATE, pickle_protocol=4))
    assert error.code == "unsupported_format" and "protocol 4" in error.detail


# --- damaged, hostile, foreign ------------------------------------------------------------------


def test_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "c.pt").touch()
    assert refused(tmp_path / "c.pt").code == "empty_file"


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.9, 0.99])
def test_a_truncated_file(tmp_path: Path, kind: str, share: float) -> None:
    path, state = tmp_path / "c.pt", {f"layer{i}.weight": torch.randn(64, 8) for i in range(8)}
    if kind == "safetensors":
        safetensors.torch.save_file(state, path)
    else:
        save(path, state, legacy=kind == "legacy")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    assert refused(path).code == "truncated_file"


def test_a_zip_bomb(tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", pickle.dumps({}, protocol=2))
        file.writestr("archive/data/0", bytes(50 * 2**20))
    assert refused(path).code == "archive_bomb"


def test_a_zip_whose_members_overlap(tmp_path: Path) -> None:
    path = save(tmp_path / "c.pt", {"w": torch.zeros(4096)})
    with zipfile.ZipFile(path, "a") as file:
        first = next(i for i in file.infolist() if i.filename.endswith("data/0"))
        for index in range(1, 4):
            again = zipfile.ZipInfo(f"{first.filename}{index}")
            again.header_offset, again.CRC = first.header_offset, first.CRC
            again.file_size = again.compress_size = first.file_size
            file.filelist.append(again)
        file._didModify = True  # type: ignore[attr-defined]
    assert refused(path).code == "archive_bomb"


def test_a_zip_that_declares_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "c.pt", STATE)
    monkeypatch.setattr(archive, "MAX_TOTAL_BYTES", 100)
    assert refused(path).code == "archive_bomb"
    monkeypatch.undo()
    monkeypatch.setattr(archive, "MAX_MEMBERS", 3)
    assert refused(path).code == "archive_bomb"


@pytest.mark.parametrize("name", ["../evil", "/etc/passwd", "a/../../b", "c:\\x", "a\\..\\b"])
def test_a_zip_with_paths_that_leave_it(tmp_path: Path, name: str) -> None:
    path = save(tmp_path / "c.pt", STATE)
    with zipfile.ZipFile(path, "a") as file:
        file.writestr(name, b"x")
    assert refused(path).code == "unsupported_format"


def test_a_zip_in_a_zip(tmp_path: Path) -> None:
    path = save(tmp_path / "c.pt", STATE)
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("archive/more.zip", b"PK")
    assert refused(path).code == "archive_bomb"


def test_a_tensor_larger_than_its_memory_is_not_expanded(tmp_path: Path) -> None:
    path = save(tmp_path / "c.pt", {"w": torch.ones(1).expand(40_000, 40_000)})
    assert path.stat().st_size < 10_000
    assert refused(path).code == "archive_bomb"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\x89HDF\r\n\x1a\n" + bytes(100), "HDF5"),
        (b"\x08\x08\x12\x07pytorch:" + bytes(100), "ONNX"),
        (b"GGUF" + bytes(100), "GGUF"),
        (b"\x93NUMPY\x01\0" + bytes(100), "NumPy"),
        (b"\x1f\x8b" + bytes(100), "gzip"),
        (bytes(4) + b"TFL3" + bytes(100), "TensorFlow Lite"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS"),
        (b"just some text, nothing more\n" * 5, "text"),
        (bytes(range(255, 100, -1)), "unknown"),
    ],
)
def test_foreign_formats_are_named(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "c.pt").write_bytes(content)
    error = refused(tmp_path / "c.pt")
    assert error.code == "unsupported_format" and words in error.detail


@pytest.mark.parametrize(
    ("members", "words"),
    [
        (["config.json", "model.weights.h5"], "Keras"),
        (["x.npy", "y.npy"], ".npz"),
        (["net/code/a.py", "net/constants.pkl", "net/data.pkl"], "TorchScript"),
        (["weights/net.pth"], "upload the checkpoint itself"),
        (["a.txt"], "zip archive"),
    ],
)
def test_foreign_zips_are_named(tmp_path: Path, members: list[str], words: str) -> None:
    with zipfile.ZipFile(tmp_path / "c.pt", "w") as file:
        for member in members:
            file.writestr(member, b"content")
    error = refused(tmp_path / "c.pt")
    assert error.code == "unsupported_format" and words in error.detail


def test_a_real_torchscript_archive(tmp_path: Path) -> None:
    with pytest.warns(FutureWarning):
        torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)).save(str(tmp_path / "c.pt"))
    assert "TorchScript" in refused(tmp_path / "c.pt").detail


@pytest.mark.parametrize("what", [[1, 2], {"epoch": 3}, {}, torch.ones(3), {"state_dict": {"a": 1}}])
def test_files_without_a_state_dict(tmp_path: Path, what: Any) -> None:
    assert refused(save(tmp_path / "c.pt", what)).code == "not_a_state_dict"


def test_a_plain_pickle_of_harmless_things(tmp_path: Path) -> None:
    (tmp_path / "c.pt").write_bytes(pickle.dumps({"a": [1, 2]}, protocol=2))
    assert refused(tmp_path / "c.pt").code == "not_a_state_dict"


@pytest.mark.filterwarnings("ignore:.*quantized tensor creation.*:UserWarning")
@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.ones(2, dtype=torch.complex64),
        lambda: torch._empty_affine_quantized([2], scale=0.1, zero_point=0, dtype=torch.qint8),
        lambda: torch.ones(2).to_sparse(),
        lambda: torch.ones(2, device="meta"),
        lambda: torch.ones(2).to(torch.float8_e4m3fn),
    ],
    ids=["complex", "quantized", "sparse", "meta", "float8"],
)
def test_tensors_of_other_kinds(tmp_path: Path, make: Callable[[], Tensor]) -> None:
    assert refused(save(tmp_path / "c.pt", STATE | {"odd": make()})).code == "unsupported_dtype"


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_numbers_are_named(tmp_path: Path, bad: float) -> None:
    error = refused(save(tmp_path / "c.pt", STATE | {"b.weight": torch.tensor([1.0, bad, 2.0])}))
    assert error.code == "non_finite_weights" and "b.weight" in error.detail


# --- safetensors headers ------------------------------------------------------------------------


def _safetensors(path: Path, header: Any, data: bytes = b"", length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def _entry(**changes: Any) -> dict[str, Any]:
    return {"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | changes}


@pytest.mark.parametrize(
    ("header", "data", "code"),
    [
        (_entry(), bytes(4), "truncated_file"),
        (_entry(data_offsets=[0, 4]), bytes(8), "unsupported_format"),
        (_entry(data_offsets=[-8, 0]), bytes(8), "unsupported_format"),
        (_entry(shape=[2.0]), bytes(8), "unsupported_format"),
        (_entry(shape=[2**62, 2**62]), bytes(8), "unsupported_format"),
        (_entry(dtype="F8_E4M3", data_offsets=[0, 2]), bytes(2), "unsupported_dtype"),
        (_entry(dtype="C64", data_offsets=[0, 16]), bytes(16), "unsupported_dtype"),
        ({"w": [1, 2]}, b"", "unsupported_format"),
        (b'{"w": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", b"", "unsupported_format"),
        (b"{not json}", b"", "unsupported_format"),
    ],
)
def test_broken_safetensors_headers(tmp_path: Path, header: Any, data: bytes, code: str) -> None:
    assert refused(_safetensors(tmp_path / "c.safetensors", header, data)).code == code


def test_a_safetensors_header_longer_than_the_file_or_the_limit(tmp_path: Path) -> None:
    assert refused(_safetensors(tmp_path / "a", _entry(), length=5000)).code == "truncated_file"
    assert refused(_safetensors(tmp_path / "b", _entry(), length=2**36)).code == "archive_bomb"


def test_safetensors_that_overlap_are_refused(tmp_path: Path) -> None:
    header = {f"w{i}": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} for i in range(3)}
    assert refused(_safetensors(tmp_path / "c", header, bytes(8))).code == "truncated_file"


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_no_damage_raises_anything_but_a_checkpoint_error(tmp_path: Path, kind: str) -> None:
    path, chance = tmp_path / "c.pt", random.Random(0)
    if kind == "safetensors":
        safetensors.torch.save_file(STATE, path)
    else:
        save(path, STATE, legacy=kind == "legacy")
    whole = path.read_bytes()
    for _ in range(150):
        damaged = bytearray(whole)
        for _ in range(chance.choice([1, 2, 8])):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        path.write_bytes(damaged)
        with contextlib.suppress(CheckpointError):
            load_state_dict(path)
