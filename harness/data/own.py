"""The default dataset of a cell: the data that its teacher models."""

from __future__ import annotations

from harness.api import Dataset, register_dataset


@register_dataset("teacher")
class TeacherData(Dataset):
    """The data that the cell's teacher models (`Teacher.dataset`), the default of grids."""
