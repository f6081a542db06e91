#!/usr/bin/python
"""Status: how long the site's certificate lasts, and whether clients accept it."""

DOCUMENTATION = r"""
module: site_certificate
short_description: Tell how long a site's certificate lasts
description:
  - Reads the certificate of an https site by a TLS connection from this host, verified as a client does.
  - Returns a finding; it does not fail for one that does not fit, so that everything else is told, too.
    Let M(ansible.builtin.assert) look at RV(findings).
  - Changes nothing.
author: mistralrs-rpm
options:
  url:
    description: The site, an C(https) URL.
    type: str
    required: true
attributes:
  check_mode:
    description: Runs in check mode, and does the same.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
"""

EXAMPLES = r"""
- name: See how long the certificate lasts
  site_certificate:
    url: https://rpm.example.org
  register: certificate
"""

RETURN = r"""
certificate:
  description: When it begins and ends, in seconds since 1970, and its issuer; empty where it is not trusted.
  returned: success
  type: dict
findings:
  description: The check with what was found, what is needed, whether that fits, and the remedy.
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

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.pipeline.base import findings
from ansible.module_utils.pipeline.base.errors import PipelineError
from ansible.module_utils.pipeline.hosts import site_certificate


def main():
    module = AnsibleModule(argument_spec={"url": {"type": "str", "required": True}}, supports_check_mode=True)
    url = str(module.params["url"])
    try:
        found = site_certificate.read(url)
    except PipelineError as error:
        found = error
    finding = site_certificate.check(found)
    module.exit_json(
        changed=False,
        certificate={} if isinstance(found, PipelineError) else found.to_dict(),
        findings=[finding.to_dict()],
        table=[url, "", *findings.table([finding])],
        step={
            "name": "status",
            "flavour": "",
            "result": f"certificate: {finding.found}" if finding.fits else f"certificate wrong: {finding.found}",
            "where": url,
        },
    )


if __name__ == "__main__":
    main()
