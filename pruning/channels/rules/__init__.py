"""How each operation maps channels: one function (a rule) per kind of operation, and tables of them by name.

A rule (variables, node, value) -> ids returns the channel variables of the node's value, given those of its inputs, and
records the axis that carries them in `variables.axis`; None makes the operation opaque. What it unites is cut together,
what it adds to `variables.fixed` is never cut. `channels.tracing` calls the rules.
"""
