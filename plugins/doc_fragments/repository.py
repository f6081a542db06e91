"""The option ``repository``."""


class ModuleDocFragment:
    """Documentation of ``pipeline_module.REPOSITORY``."""

    DOCUMENTATION = r"""
options:
  repository:
    description: The repository, as the variable C(repository) of the inventory names it.
    type: dict
    required: true
    suboptions:
      channel:
        description: The channel's name, as the agent knows it.
        type: str
        required: true
      location:
        description: Where the signer reads the repository, a folder or an http(s) URL.
        type: str
        required: true
      agent:
        description: How the agent is reached; needed to change the repository.
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
