"""A C++ project from a bundle: what a service in C++ takes in to run the plans, and to check itself without them.

names.py      C++ identifiers, namespaces and string literals
header.py     NAME.h: tensors, image spec, labels, digests and plans as constants
arrays.py     golden.bin and fixtures.bin: arrays in one binary file
project.py    the folder: what is written, and whose folder it is
template/     what is the same for every bundle: headers, programs, tests, CMakeLists.txt, README.md
"""

from deploykit.integrations.cpp.header import GraphFacts, ModelFacts, PlanFolder
from deploykit.integrations.cpp.names import check_namespace, identifier
from deploykit.integrations.cpp.project import Project, check_place, write_project

__all__ = [
    "GraphFacts",
    "ModelFacts",
    "PlanFolder",
    "Project",
    "check_namespace",
    "check_place",
    "identifier",
    "write_project",
]
