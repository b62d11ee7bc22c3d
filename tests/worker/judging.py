"""The kernel's side of a filter, as far as ours need it: for machines that the tests do not run on."""

from __future__ import annotations

from collections.abc import Sequence

from worker.bpf import (
    ARCHITECTURE,
    ARGUMENTS,
    JUMP_EQUAL,
    JUMP_GREATER_EQUAL,
    JUMP_SET,
    LOAD,
    NUMBER,
    RETURN,
    Instruction,
)


def judge(program: Sequence[Instruction], audit_arch: int, number: int, *arguments: int) -> int:
    """What the program returns for the call."""
    data = {NUMBER: number, ARCHITECTURE: audit_arch}
    for index in range(6):
        whole = arguments[index] if index < len(arguments) else 0
        data[ARGUMENTS + 8 * index] = whole & 0xFFFFFFFF
        data[ARGUMENTS + 8 * index + 4] = whole >> 32 & 0xFFFFFFFF
    tests = {
        JUMP_EQUAL: lambda value, operand: value == operand,
        JUMP_GREATER_EQUAL: lambda value, operand: value >= operand,
        JUMP_SET: lambda value, operand: bool(value & operand),
    }
    at, value = 0, 0
    while program[at].code != RETURN:
        here = program[at]
        at += 1
        if here.code == LOAD:
            value = data[here.operand]
        else:
            at += here.if_true if tests[here.code](value, here.operand) else here.if_false
    return int(program[at].operand)
