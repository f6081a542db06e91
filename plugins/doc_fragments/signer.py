"""The option ``signer``."""


class ModuleDocFragment:
    """The documentation of ``pipeline_module.SIGNER``."""

    DOCUMENTATION = r"""
options:
  signer:
    description: The signer, as the inventory's variable C(signer) describes it.
    type: dict
    required: true
    suboptions:
      root:
        description:
          - The signer's folder, for signed packages, release packages, snapshots in the making, and what the signer
            knows of each repository's head.
        type: path
        required: true
      home:
        description: The GnuPG home with the signing subkey, of mode 0700. Its path may have any length.
        type: path
        required: true
      passphrase_file:
        description: A file whose first line is the passphrase of all keys. Without it they have none.
        type: path
      trusted_keys:
        description: The file of the trusted keys, armored.
        type: path
        required: true
      accept_head:
        description:
          - Ids of heads to accept although they contradict what the signer knows.
          - V(empty) accepts a repository without a head.
        type: list
        elements: str
        default: []
"""
