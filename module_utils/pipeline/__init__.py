"""The release pipeline's logic: values in, values out.

Nothing here imports Ansible, so that it can be typed, tested and read on its own.
Modules in ``library/`` call it and translate the result.
"""
