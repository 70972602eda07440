"""Blocks that can be held still (`ArrayConfig.stalls`): a port `enable`, and registers that keep what they hold while it is low."""

from __future__ import annotations

from amaranth.hdl import Fragment, Module, Signal, Value
from amaranth.hdl._ast import Switch, _StatementList
from amaranth.lib.wiring import In, Member

from overq.spec import ArrayConfig


def enable_port(config: ArrayConfig) -> dict[str, Member]:
    return {"enable": In(1)} if config.stalls else {}


def registered(m: Module, value: Value, name: str) -> Signal:
    """`value`, a cycle later."""
    later = Signal(value.shape(), name=name, reset_less=True)
    m.d.sync += later.eq(value)
    return later


def held(m: Module, enable: Value | None) -> Module | Fragment:
    """The elaborated module; with an `enable`, its clocked statements take place where that is high. A reset takes place anyway."""
    if enable is None:
        return m
    fragment = Fragment.get(m, None)
    if "sync" in fragment.statements:
        fragment.statements["sync"] = _StatementList([Switch(enable, [("1", fragment.statements["sync"], None)])])
    return fragment
