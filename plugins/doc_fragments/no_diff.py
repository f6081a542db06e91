"""The attribute of a module whose changes have no readable difference."""


class ModuleDocFragment:
    """Documentation of diff mode."""

    DOCUMENTATION = r"""
attributes:
  diff_mode:
    description: There is nothing to show.
    support: none
"""
