"""What a figure was measured on, in one line, as `zoo bench` says it."""

from zoo.bench.machine import machine

__all__ = ["machine"]
