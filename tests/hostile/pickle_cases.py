"""Pickles that would run a program, and pickles that would take all memory or time."""

from __future__ import annotations

import struct

import torch

from tests.hostile import programs
from tests.hostile.cases import BOMB, BROKEN, FORMAT, NO_STATE, UNSAFE, Cases, fixed, with_member
from tests.integration import bad_files as files

PROGRAMS: Cases = {
    **{f"pickle: {name}": (make, UNSAFE) for name, make in programs.RUNNABLE.items()},
    **{
        f"pickle in a torch zip: {name}": (lambda m, make=make: programs.in_zip(make(m)), UNSAFE)
        for name, make in programs.RUNNABLE.items()
    },
    "a dotted name, GLOBAL": (lambda m: programs.in_zip(programs.dotted_global(m)), UNSAFE),
    "NEWOBJ": (lambda m: programs.in_zip(programs.newobj(m)), UNSAFE),
    "NEWOBJ_EX": (lambda m: programs.in_zip(programs.newobj_ex(m)), UNSAFE),
    "EXT1": (lambda m: programs.in_zip(b"\x80\x02\x82\1)R."), UNSAFE),
    "EXT4": (lambda m: programs.in_zip(b"\x80\x02\x84\1\0\0\0)R."), UNSAFE),
    "PERSID": (lambda m: programs.in_zip(b"Pstorage\n."), UNSAFE),
    "a reference that is a container with its source": (
        lambda m: programs.in_zip(
            b"\x80\x02("
            + programs.text("module")
            + b"ctorch.nn.parameter\nParameter\n"
            + programs.text(str(m))
            + programs.text("pass")
            + b"tQ."
        ),
        UNSAFE,
    ),
    "torch's own importer": (
        lambda m: programs.in_zip(
            b"\x80\x02ctorch._utils\n_import_dotted_name\n" + programs.text("os.system") + b"\x85R."
        ),
        UNSAFE,
    ),
    "a program beside the weights": (lambda m: files.trapped_checkpoint(programs.STATE, m), UNSAFE),
    "a program in a legacy file": (lambda m: files.trapped_legacy_checkpoint(programs.STATE, m), UNSAFE),
    "a program behind a legacy file's weights": (
        lambda m: files.trapped_behind_tensors(programs.STATE, m),
        UNSAFE,
    ),
    "a program under a name in capitals": (
        lambda m: with_member(files.saved(programs.STATE), "DATA.PKL", programs.reduce(m)),
        FORMAT,
    ),
    "a tensor built by BUILD": (
        fixed(lambda: programs.in_zip(programs.tensor()[:-2] + b")b" + b"s.")),
        UNSAFE,
    ),
}

_SHARED = torch.ones(8192)

BOMBS: Cases = {
    "bytes doubled by a codec": (fixed(lambda: programs.in_zip(programs.hex_doubled(40))), UNSAFE),
    "a text encoded over and over": (
        fixed(lambda: programs.deflated(programs.encoded_over_and_over(4000))),
        BOMB,
    ),
    "a list copied over and over": (
        fixed(lambda: programs.in_zip(programs.copied_over_and_over(1000))),
        BOMB,
    ),
    "a million dictionaries": (fixed(lambda: programs.deflated(programs.repeated(b"}", 1_100_000))), BOMB),
    "sets of one byte each": (fixed(lambda: programs.deflated(programs.repeated(b"\x8f", 100_000))), UNSAFE),
    "a text of 17 MiB": (fixed(lambda: programs.deflated(programs.a_long_text(17))), BOMB),
    "a number of 2 GiB": (fixed(lambda: programs.in_zip(b"\x80\x02\x8b\xff\xff\xff\x7f.")), BOMB),
    "a text of 2^62 bytes": (
        fixed(lambda: programs.in_zip(b"\x80\x04\x8d" + struct.pack("<Q", 2**62) + b".")),
        BOMB,
    ),
    "a place in the memo past all memory": (
        fixed(lambda: programs.in_zip(b"\x80\x02}r\xff\xff\xff\xff.")),
        NO_STATE,
    ),
    "a hundred thousand marks": (fixed(lambda: programs.deflated(programs.repeated(b"(", 100_000))), BROKEN),
    "two hundred thousand tuples in each other": (
        fixed(lambda: programs.deflated(b"\x80\x02)" + b"\x85" * 200_000 + b".")),
        NO_STATE,
    ),
    "a key of two hundred thousand tuples": (
        fixed(lambda: programs.deflated(b"\x80\x02})" + b"\x85" * 200_000 + b"Ns.")),
        UNSAFE,
    ),
    "25,000 views of one tensor": (
        fixed(lambda: programs.in_zip(programs.named_over_and_over(25_000))),
        NO_STATE,
    ),
    "a list that holds itself": (fixed(lambda: programs.in_zip(b"\x80\x02]q\0h\0a.")), NO_STATE),
    "a dictionary that holds itself": (
        fixed(lambda: programs.in_zip(b"\x80\x02}q\0" + programs.text("model") + b"h\0s.")),
        NO_STATE,
    ),
    "a legacy file that wants 32 GiB": (
        fixed(lambda: programs.legacy(programs.tensor(items=2**33, size=(2**33,)))),
        BROKEN,
    ),
    "a legacy tensor larger than its storage": (
        fixed(lambda: programs.legacy(programs.tensor(size=(2**31,)), data=struct.pack("<qf", 1, 1.0))),
        BROKEN,
    ),
    "a legacy storage that nothing fills": (
        fixed(lambda: programs.legacy(programs.tensor(), keys=b"\x80\x02].", data=bytes(64))),
        BROKEN,
    ),
    "a legacy list of storages that is none": (
        fixed(lambda: programs.legacy(programs.tensor(), keys=b"\x80\x02)" + b"\x85" * 1000 + b".")),
        BROKEN,
    ),
    "a storage larger than its member": (
        fixed(lambda: programs.in_zip(programs.tensor(items=2**40, size=(2**40,)))),
        BROKEN,
    ),
    "a tensor larger than its storage": (
        fixed(lambda: programs.in_zip(programs.tensor(items=6, size=(2**40,)))),
        BROKEN,
    ),
    "a tensor that begins past its storage": (
        fixed(lambda: programs.in_zip(programs.tensor(items=6, offset=2**40))),
        BROKEN,
    ),
    "a step past the storage": (
        fixed(lambda: programs.in_zip(programs.tensor(items=6, size=(2, 2), stride=(2**40, 1)))),
        BROKEN,
    ),
    "a negative step": (fixed(lambda: programs.in_zip(programs.tensor(items=6, stride=(-1,)))), UNSAFE),
    "a negative size": (fixed(lambda: programs.in_zip(programs.tensor(items=6, size=(-1,)))), UNSAFE),
    "a negative storage": (fixed(lambda: programs.in_zip(programs.tensor(items=-1))), UNSAFE),
    "a size past all numbers": (
        fixed(lambda: programs.in_zip(programs.tensor(items=6, size=(2**900, 2**900), stride=(1, 1)))),
        UNSAFE,
    ),
    "sixty dimensions": (
        fixed(lambda: programs.in_zip(programs.tensor(items=6, size=(1,) * 60, stride=(1,) * 60))),
        UNSAFE,
    ),
    "a step of zero": (
        fixed(lambda: files.saved({"conv1.weight": torch.zeros(1).expand(1 << 34)})),
        BOMB,
    ),
    "a thousand views of one storage": (
        fixed(lambda: files.saved({str(n): _SHARED.view(-1) for n in range(1000)})),
        BOMB,
    ),
}
