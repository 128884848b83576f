"""The same steps on a Ray cluster: see docs/scaling.md."""

from notsure.studies.scale_out.driver import run_plan_on_ray

__all__ = ["run_plan_on_ray"]
