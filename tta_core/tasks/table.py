"""The tasks by name."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from tta_core.data.spec import Task as TaskName
from tta_core.tasks.base import Task
from tta_core.tasks.classification import Classification
from tta_core.tasks.segmentation import Segmentation

TASKS: Mapping[TaskName, Task] = MappingProxyType({"classification": Classification(), "segmentation": Segmentation()})
