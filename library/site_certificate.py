#!/usr/bin/python
"""Status: the validity of the site's certificate, as a client sees it."""

DOCUMENTATION = r"""
module: site_certificate
short_description: Check the validity of a site's certificate
description:
  - Reads the certificate of an https site by a TLS connection from this host, verified as a client does.
  - Returns a finding instead of failing, so that the caller can report every other finding too. Check RV(findings) with
    M(ansible.builtin.assert).
  - Changes nothing.
author: mistralrs-rpm
options:
  url:
    description: The site, an C(https) URL.
    type: str
    required: true
extends_documentation_fragment: [read_only]
"""

EXAMPLES = r"""
- name: Check the site's certificate
  site_certificate:
    url: https://rpm.example.org
  register: certificate
"""

RETURN = r"""
certificate:
  description: Its begin and end in seconds since 1970, and its issuer; empty if it is not trusted.
  returned: success
  type: dict
findings:
  description: The check, with check, found, needed, fits and remedy.
  returned: success
  type: list
  elements: dict
table:
  description: The same as lines for a person; the run's summary prints them.
  returned: success
  type: list
  elements: str
step:
  description: The row of the run's summary table.
  returned: success
  type: dict
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.pipeline.base import findings
from ansible.module_utils.pipeline.base.errors import PipelineError
from ansible.module_utils.pipeline.hosts.site_certificate import Validity, judge, read
from ansible.module_utils.pipeline_module import ArgumentSpec, run, step

ARGUMENT_SPEC: ArgumentSpec = {"url": {"type": "str", "required": True}}


def work(module: AnsibleModule) -> dict[str, Any]:
    url = str(module.params["url"])
    # 1. Read and judge.
    found: Validity | PipelineError
    try:
        found = read(url)
    except PipelineError as error:
        found = error
    finding = judge(found)

    # 2. Report.
    return {
        "changed": False,
        "certificate": {} if isinstance(found, PipelineError) else found.to_dict(),
        "findings": [finding.to_dict()],
        "table": [url, "", *findings.table([finding])],
        "step": step("status", f"certificate{'' if finding.fits else ' wrong'}: {finding.found}", where=url),
    }


def main() -> None:
    run(work, ARGUMENT_SPEC)


if __name__ == "__main__":
    main()
