"""The one module a plugin imports: abstractions, decorators, and the functions scripts call.

Importing it imports neither torch nor pandas, so that `plan`, `status` and `report` start at once;
plugins keep to the same rule by importing torch inside their methods.

The three main abstractions: a `Preconditioning` (the coefficients of a student's jump), a `Teacher`
(whose ODE the student learns) and an `Objective` (the loss). An objective never sees skip and out,
and a preconditioning never sees the loss, so that each can be varied with the other fixed.
"""

from harness.api.architecture import Architecture
from harness.api.basis import Basis
from harness.api.coeffs import Coeffs
from harness.api.create import (
    calibrate,
    create,
    create_precond,
    create_teacher,
    list_backbones,
    list_datasets,
    list_extractors,
    list_metrics,
    list_objectives,
    list_preconds,
    list_students,
    list_teachers,
    make_params,
    register_backbone,
    register_dataset,
    register_extractor,
    register_metric,
    register_objective,
    register_precond,
    register_student,
    register_teacher,
)
from harness.api.evaluation import (
    Extractor,
    Metric,
    Score,
)
from harness.api.objective import (
    Batch,
    Objective,
    StudentInTraining,
    Trained,
)
from harness.api.plugin import (
    Params,
    Plugin,
    PluginRef,
    located,
)
from harness.api.preconditioning import (
    DenoiserForm,
    Preconditioning,
    carried_inner,
    edm_inner,
)
from harness.api.runs import (
    load_student,
    results,
    run,
    run_cell,
)
from harness.api.student import (
    StudentFormat,
    StudentSpec,
    TrainedStudent,
)
from harness.api.teacher import (
    Dataset,
    DatasetSpec,
    Teacher,
    TeacherSpec,
)
from harness.core.protocols import StudentLike
from harness.core.tangent import JumpTangent
from harness.digest import content_digest
from harness.errors import CellsFailed, ConfigError, HarnessError

__all__ = [
    "Architecture",
    "Basis",
    "Batch",
    "CellsFailed",
    "Coeffs",
    "ConfigError",
    "Dataset",
    "DatasetSpec",
    "DenoiserForm",
    "Extractor",
    "HarnessError",
    "JumpTangent",
    "Metric",
    "Objective",
    "Params",
    "Plugin",
    "PluginRef",
    "Preconditioning",
    "Score",
    "StudentFormat",
    "StudentInTraining",
    "StudentLike",
    "StudentSpec",
    "Teacher",
    "TeacherSpec",
    "Trained",
    "TrainedStudent",
    "calibrate",
    "carried_inner",
    "content_digest",
    "create",
    "create_precond",
    "create_teacher",
    "edm_inner",
    "list_backbones",
    "list_datasets",
    "list_extractors",
    "list_metrics",
    "list_objectives",
    "list_preconds",
    "list_students",
    "list_teachers",
    "load_student",
    "located",
    "make_params",
    "register_backbone",
    "register_dataset",
    "register_extractor",
    "register_metric",
    "register_objective",
    "register_precond",
    "register_student",
    "register_teacher",
    "results",
    "run",
    "run_cell",
]
