"""The options that describe a build."""


class ModuleDocFragment:
    """Documentation of ``pipeline_module.BUILD``."""

    DOCUMENTATION = r"""
options:
  source:
    description: The Source record to build.
    type: dict
    required: true
  flavour:
    description: The Flavour record to build.
    type: dict
    required: true
  package:
    description: The cargo package that holds the binary.
    type: str
    required: true
  toolkit:
    description: The CUDA toolkit, as M(cuda_toolkit) returns it. A flavour without CUDA needs none.
    type: dict
    default: {}
  cargo:
    description: The cargo program; the one on PATH or in C(~/.cargo/bin) when empty.
    type: str
    default: ""
  rustflags:
    description: The flags for rustc. They replace all flags of upstream's own configuration.
    type: str
    required: true
  jobs:
    description:
      - How many jobs cargo runs at once; planned from the host's processors and memory when 0.
      - In either case the number of nvcc processes is planned from the memory.
    type: int
    default: 0
  low_memory:
    description: Run one compiler at a time, nvcc included, regardless of O(jobs).
    type: bool
    default: false
  cache:
    description: The compile cache. Omit it to build without one.
    type: dict
    suboptions:
      program:
        description: The path of sccache, as M(compile_cache) returns it.
        type: path
        required: true
      settings:
        description:
          - A file of sccache's settings, lines of NAME=VALUE, as the role compile_cache writes it.
          - Without it the cache lies on disk, in C(cache/sccache) below O(root), with sccache's own limit of 10 GB.
        type: path
  mirrors:
    description:
      - The origin of crates, and the dependencies that are fetched beside them.
      - Git mirrors come from the task's environment, as the filter P(git_environment#filter) sets them.
    type: dict
    default: {}
    suboptions:
      registry:
        description: A sparse index that replaces crates.io, or a folder on the builder; crates.io itself when empty.
        type: str
        default: ""
      cutlass_commits:
        description: The commits of CUTLASS to fetch before compiling; those that the build scripts name when empty.
        type: list
        elements: str
        default: []
"""
