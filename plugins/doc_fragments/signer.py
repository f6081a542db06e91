"""The option ``signer``."""


class ModuleDocFragment:
    """Documentation of ``pipeline_module.SIGNER``."""

    DOCUMENTATION = r"""
options:
  signer:
    description: The signer, as the variable C(signer) of the inventory names it.
    type: dict
    required: true
    suboptions:
      root:
        description: The signer's root.
        type: path
        required: true
      home:
        description: The GnuPG home with the signing subkey.
        type: path
        required: true
      passphrase_file:
        description: A file whose first line is the passphrase of the key. Without it the key has none.
        type: path
      trusted_keys:
        description: The file of the trusted keys, armored.
        type: path
        required: true
"""
