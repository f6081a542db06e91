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
        description: The signer's folder, for signed packages, release packages and snapshots in the making.
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
"""
