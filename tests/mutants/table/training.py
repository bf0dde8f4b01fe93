"""The training step: every statement deleted once, and what else can go wrong in it."""

from mutants.deletions import deletions

_STEP = ("tests/unit/esvit/test_step.py", "tests/unit/esvit/test_trajectory.py")

MUTANTS = [
    *deletions("esvit/step.py", _STEP, {}),
    *deletions("esvit/optim.py", ("tests/unit/esvit/test_optim.py", *_STEP), {}),
    *deletions("esvit/schedules.py", ("tests/unit/esvit/test_schedules.py", "tests/unit/esvit/test_trajectory.py"), {}),
    *deletions(
        "esvit/losses/center.py",
        ("tests/unit/esvit/losses/test_losses.py", "tests/unit/esvit/test_trajectory.py"),
        {},
    ),
    *deletions(
        "esvit/models/student_teacher.py",
        ("tests/unit/esvit/test_trajectory.py",),
        {},
        ("StudentTeacher.update_teacher",),
    ),
]
