"""The option of the sandbox in which upstream's code runs."""


class ModuleDocFragment:
    """Documentation of ``pipeline_module.SANDBOX``."""

    DOCUMENTATION = r"""
options:
  sandbox:
    description:
      - V(bubblewrap) runs upstream's code in namespaces of its own, without the network, any capability, and any file
        of the host that it does not need.
      - V(none) runs it with all rights of the account. Each report repeats that.
    type: str
    choices: [bubblewrap, none]
    default: bubblewrap
"""
