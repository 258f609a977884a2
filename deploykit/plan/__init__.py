"""What a plan is for (`record`, `header`), and refusing it where it does not belong before TensorRT sees it (`check`)."""

from deploykit.plan.check import check_content, check_fit, read_content, read_plan, read_record
from deploykit.plan.header import PlanHeader, read_header
from deploykit.plan.record import (
    COMPAT_LEVELS,
    ON_CPU,
    PLAN_NAME,
    BatchRange,
    Gpu,
    PlanFile,
    PlanRecord,
    Repeats,
    SideRange,
    graph_digest,
    plan_folder,
)

__all__ = [
    "COMPAT_LEVELS",
    "ON_CPU",
    "PLAN_NAME",
    "BatchRange",
    "Gpu",
    "PlanFile",
    "PlanHeader",
    "PlanRecord",
    "Repeats",
    "SideRange",
    "check_content",
    "check_fit",
    "graph_digest",
    "plan_folder",
    "read_content",
    "read_header",
    "read_plan",
    "read_record",
]
