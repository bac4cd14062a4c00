"""The subcommands of `heph-vl`, by what they work on; `heph_vl.cli` puts them together.

Each checks its input, calls one function and shows the result. What computes is imported inside
the functions, so that help and usage errors do not wait for torch.
"""
