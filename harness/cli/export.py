"""`export`: write a student to a folder that can be used without this harness."""

from __future__ import annotations

import argparse
import json
import os
import shutil
from pathlib import Path

from harness.api.runs import student_path
from harness.cli import add_plugin_argument
from harness.config.schema import PluginRef
from harness.errors import EXIT_DONE, ConfigError
from harness.home import without_home
from harness.store.run import Run

#: model_index.json of a student of diffusers' UNet2DModel
PIPELINE = {
    "_class_name": "StudentPipeline",
    "_diffusers_version": "0.32.0",
    "unet": ["diffusers", "UNet2DModel"],
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `export`."""
    parser.epilog = (
        "DIR then holds model.safetensors, student.json (architecture, coefficients, training,"
        "\nresults), README.md (a model card) and student.py, which samples:\n\n"
        "  python DIR/student.py --n 16 --nfe 2 --out samples.pt"
    )
    parser.add_argument("student", metavar="RUN|FILE", help="a run's id or folder, or a file")
    parser.add_argument("--out", required=True, metavar="DIR", help="a new folder")
    parser.add_argument(
        "--nfe", type=int, nargs="+", default=[], metavar="N", help="further numbers of steps"
    )
    parser.add_argument("--format", default="auto", metavar="NAME", help="see `list students`")
    parser.add_argument("--results", default="results", metavar="DIR", help="where the runs are")
    add_plugin_argument(parser)


def main(args: argparse.Namespace) -> int:
    """Write the folder atomically."""
    out = Path(args.out)
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise ConfigError(f"{out} is there already; delete it, or choose another --out")
    if min(args.nfe, default=1) < 1:
        raise ConfigError("export: --nfe must be 1 or more")
    path = student_path(args.student, args.results)
    ref = PluginRef.model_validate(args.format)
    from safetensors.torch import save_file

    from harness.api import load_student
    from harness.export import student as alone
    from harness.export.card import card, facts, results, standing
    from harness.export.describe import STEPS, describe

    student = load_student(path, ref.name, **ref.params)
    told = student.spec.facts
    run = Run((path if path.is_dir() else path.parents[1]).resolve()) if "run_id" in told else None
    measured = results(run, told["step"]) if run else []
    steps = {*STEPS, *args.nfe, *(row["nfe"] for row in measured)}
    about, tensors = describe(student, steps)
    about = {
        "name": told.get("run_id", path.stem),
        "format": student.spec.format,
        "training": facts(run) | told if run else told,
        "results": measured,
        **about,
    }
    about = without_home(about)
    whole = out.resolve()  # "." has no name
    aside = whole.with_name(f".{whole.name}.{os.getpid()}")
    aside.mkdir(parents=True)
    try:
        save_file(tensors, aside / "model.safetensors")
        (aside / "model.safetensors").chmod(0o644)  # it makes files for their owner alone
        (aside / "student.json").write_text(json.dumps(about, indent=1))
        (aside / "README.md").write_text(card(about, list(standing(run)) if run else []))
        shutil.copyfile(Path(alone.__file__), aside / "student.py")
        if about["network"]["kind"] == "unet2d":
            student.student.backbone.net.save_pretrained(aside)
            shutil.copyfile(Path(alone.__file__).with_name("pipeline.py"), aside / "pipeline.py")
            (aside / "model_index.json").write_text(json.dumps(PIPELINE, indent=1))
        if whole.is_dir():
            whole.rmdir()
        aside.replace(whole)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    print(f"{out}: {sum(t.numel() for t in tensors.values()):,} numbers; python {out}/student.py")
    return EXIT_DONE
