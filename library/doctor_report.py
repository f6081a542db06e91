#!/usr/bin/python
"""The doctor's report: what was found on the hosts, as JSON, and an error where something does not fit."""

DOCUMENTATION = r"""
module: doctor_report
short_description: Report what would keep a release from working
description:
  - Writes what M(builder_check) and others found as one JSON file, then fails with everything that does not fit.
  - The file is written in either case, whole or not at all.
author: mistralrs-rpm
options:
  path:
    description: The file to write; its folder is made.
    type: path
    required: true
  source:
    description: The Source record that would be built; empty where it could not be found.
    type: dict
    default: {}
  signer:
    description: The findings about the signer, about upstream and about the channel.
    type: list
    elements: dict
    default: []
  entries:
    description: What was found on the builders.
    type: list
    elements: dict
    default: []
    suboptions:
      builder:
        description: The builder's name.
        type: str
        required: true
      flavour:
        description: The flavour's name.
        type: str
        required: true
      findings:
        description: The findings.
        type: list
        elements: dict
        required: true
  unanswered:
    description: The builders that did not answer.
    type: list
    elements: str
    default: []
attributes:
  check_mode:
    description: Writes nothing in check mode, and fails all the same.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
"""

EXAMPLES = r"""
- name: Write the report, and fail where something does not fit
  doctor_report:
    path: /var/tmp/doctor.json
    source: "{{ resolved.source }}"
    entries: "{{ groups.builders | map('extract', hostvars, 'examined') | flatten }}"
"""

RETURN = r"""
doctor:
  description:
    - The report (time, version, commit, fits, signer, builders).
    - C(builders) has an entry for each builder and flavour (builder, flavour, fits, findings).
  returned: success
  type: dict
"""

import time
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.pipeline.base.errors import PipelineError
from ansible.module_utils.pipeline.check import doctor


def main():
    entry = {
        "builder": {"type": "str", "required": True},
        "flavour": {"type": "str", "required": True},
        "findings": {"type": "list", "elements": "dict", "required": True},
    }
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "source": {"type": "dict", "default": {}},
            "signer": {"type": "list", "elements": "dict", "default": []},
            "entries": {"type": "list", "elements": "dict", "options": entry, "default": []},
            "unanswered": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    p = module.params
    path = Path(p["path"])
    try:
        # 1. Put together what the hosts told.
        made = doctor.report(int(time.time()), p["source"], p["signer"], p["entries"], p["unanswered"])
        # 2. Leave it, whatever it says.
        if not module.check_mode:
            path.parent.mkdir(parents=True, exist_ok=True)
            made.write(path)
        # 3. Refuse, or report.
        made.refuse(str(path))
    except PipelineError as error:
        module.fail_json(**error.failure())
    except OSError as error:
        module.fail_json(msg=f"the report cannot be written: {error}. Name another file with -e report=")
    module.exit_json(
        changed=False,
        doctor=made.to_dict(),
        step={"name": "doctor", "flavour": "", "result": made.summary, "where": str(path)},
    )


if __name__ == "__main__":
    main()
