#!/usr/bin/python
"""The inputs of roles against their argument specs; plugins/action/role_inputs.py does it."""

DOCUMENTATION = r"""
module: role_inputs
short_description: Check the inputs of a play's roles before anything is touched
description:
  - Reads the argument specs of all roles of a play and holds the host's variables against them. Everything that is
    missing, empty though required, or wrong is told at once, by role and variable, also a secret that is not to be had.
  - Ansible itself checks a role's inputs when the role begins, so the roles before it have been applied by then.
  - Works on the controller, connects to nothing and changes nothing.
author: mistralrs-rpm
options:
  roles:
    description: The names of the roles; by default those that the play lists.
    type: list
    elements: str
attributes:
  check_mode:
    description: Runs in check mode, and does the same.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
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
