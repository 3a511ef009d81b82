"""The default dataset of a cell: whatever its teacher models."""

from __future__ import annotations

from harness.api import Dataset, register_dataset


@register_dataset("teacher")
class TeacherData(Dataset):
    """Stands in a grid for `teacher.dataset()`; the matrix resolves it before anything is drawn."""
