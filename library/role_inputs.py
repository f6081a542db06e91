#!/usr/bin/python
"""Check the inputs of roles against their argument specs; the work is in plugins/action/role_inputs.py."""

DOCUMENTATION = r"""
module: role_inputs
short_description: Check the inputs of a play's roles before anything is touched
description:
  - Validates the host's variables against the argument specs of all roles of a play. Fails with every missing, empty or
    wrong input at once, by role and variable, and every secret that cannot be read.
  - Ansible itself validates a role's inputs when the role starts, after it applied the roles before.
  - Works on the controller, connects to nothing and changes nothing.
author: mistralrs-rpm
options:
  roles:
    description: The names of the roles; by default those that the play lists.
    type: list
    elements: str
extends_documentation_fragment: [read_only]
"""

EXAMPLES = r"""
- name: The repo host serves the channels
  hosts: repo_host
  pre_tasks:
    - name: Check all inputs
      role_inputs:
  roles:
    - publisher
    - rpm_site
"""

RETURN = r""" # """
