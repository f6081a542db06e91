"""The options of modules that install pinned wheels with pip."""


class ModuleDocFragment:
    """Documentation of ``pipeline_module.PINNED_WHEELS``."""

    DOCUMENTATION = r"""
options:
  pins:
    description: The text of a pip requirements file that pins each wheel by version and SHA-256.
    type: str
    default: ""
  python:
    description: A Python on the builder that has pip; the module's own when empty.
    type: str
    default: ""
"""
