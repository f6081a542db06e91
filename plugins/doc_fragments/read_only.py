"""The attributes of a module that changes nothing."""


class ModuleDocFragment:
    """Documentation of check mode and diff mode."""

    DOCUMENTATION = r"""
attributes:
  check_mode:
    description: Does the same in check mode.
    support: full
  diff_mode:
    description: Changes nothing, so there is no difference.
    support: none
"""
