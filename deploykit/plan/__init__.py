"""What a plan is for (`record`), and refusing it where it does not belong before TensorRT sees it (`check`)."""

from deploykit.plan.check import check_content, check_fit, read_content, read_plan, read_record
from deploykit.plan.record import (
    COMPAT_LEVELS,
    PLAN_NAME,
    BatchRange,
    Gpu,
    PlanFile,
    PlanRecord,
    Repeats,
    plan_folder,
)

__all__ = [
    "COMPAT_LEVELS",
    "PLAN_NAME",
    "BatchRange",
    "Gpu",
    "PlanFile",
    "PlanRecord",
    "Repeats",
    "check_content",
    "check_fit",
    "plan_folder",
    "read_content",
    "read_plan",
    "read_record",
]
