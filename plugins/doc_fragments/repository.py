"""The option ``repository``."""


class ModuleDocFragment:
    """The documentation of ``pipeline_module.REPOSITORY``."""

    DOCUMENTATION = r"""
options:
  repository:
    description: The repository, as the inventory's variable C(repository) describes it.
    type: dict
    required: true
    suboptions:
      channel:
        description: The channel's name, as the agent knows it.
        type: str
        required: true
      location:
        description: The folder or http(s) URL where the signer reads the repository. Without a mirrorlist it is empty.
        type: str
        required: true
      agent:
        description: The way to the agent; required to change the repository.
        type: dict
        suboptions:
          rsh:
            description: The remote shell and its options, such as C(ssh), or the agent itself with C(--rsh).
            type: list
            elements: str
            required: true
          host:
            description: The host for the remote shell.
            type: str
            required: true
"""
