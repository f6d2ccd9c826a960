"""Pruning in pure torch: tensors and modules in, tensors and modules out.

Scores (`criteria`) become keep-counts and masks (`scopes`, `masks`) at each cut of a schedule (`schedules`);
what is left is priced by `cost`.
"""
