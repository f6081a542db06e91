"""The option ``root`` of modules that work on a builder."""


class ModuleDocFragment:
    """Documentation of ``pipeline_module.BUILDER_ROOT``."""

    DOCUMENTATION = r"""
options:
  root:
    description: The builder's root. The checkout, toolchain, caches, logs and artifacts lie below it.
    type: path
    required: true
"""
