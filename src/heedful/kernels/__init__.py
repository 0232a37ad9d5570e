"""Compiled code for what libraries do too slowly. It knows arrays and tensors, no log, no table and no ranker.

Every kernel has a plain form in `heedful.kernels.reference`, which the tests compare it with. docs/kernels.md has the
measured gain of each and when to delete it.
"""
