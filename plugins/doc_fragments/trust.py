"""The options of a build's trust: where its checkout, target directory and cache lie."""


class ModuleDocFragment:
    """Documentation of ``pipeline_module.TRUST``."""

    DOCUMENTATION = r"""
options:
  trust:
    description:
      - V(release) for a tag that is to be released, V(try) for every other commit.
      - Nothing that a build of V(try) wrote is read by one of V(release).
    type: str
    choices: [release, try]
    required: true
  share_trust:
    description: Let builds of both trusts write the same checkout, target directory and cache.
    type: bool
    default: false
"""
