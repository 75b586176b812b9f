"""The rooms of the house: a module imports from its own room and from rooms on floors below."""

import ast
from pathlib import Path

import dgdd_fast

PACKAGE = Path(dgdd_fast.__file__).parent
FLOORS = (
    (
        *("_core", "extras", "files", "interruption", "memory", "messages", "ops"),
        *("parallel", "plans", "seeds", "steps"),
    ),
    ("config", "cuda_graphs", "devices", "json_text", "plugins", "ranks"),
    ("networks", "precision", "tensor_file"),
    ("data",),
    ("generalization", "surgery"),
    ("experts", "synthetic"),
    ("masking", "training"),
    ("matching",),
    ("distillation", "evaluation"),
    ("analysis", "experiments"),
    ("report",),
    ("commands",),
    ("__main__",),
)
FLOOR_OF = {name: floor for floor, names in enumerate(FLOORS) for name in names}


def imported_rooms(file: Path) -> set[str]:
    """The modules and subpackages directly below dgdd_fast that `file` imports from, anywhere in it."""
    folders = file.relative_to(PACKAGE).parts[:-1]
    rooms = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            paths = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ["dgdd_fast", *folders][: len(folders) + 2 - node.level] if node.level else []
            prefix = ".".join([*base, *([node.module] if node.module else [])])
            paths = [f"{prefix}.{alias.name}" for alias in node.names]
        else:
            continue
        rooms |= {path.split(".")[1] for path in paths if path.startswith("dgdd_fast.")}
    return rooms


def test_every_room_has_a_floor_and_imports_from_below_only():
    for file in sorted(PACKAGE.rglob("*.py")):
        relative = file.relative_to(PACKAGE)
        room = relative.parts[0].removesuffix(".py")
        if room == "__init__":
            continue
        assert room in FLOOR_OF, f"{relative} has no floor: see CONTRIBUTING.md"
        for other in (imported_rooms(file) & FLOOR_OF.keys()) - {room}:
            assert FLOOR_OF[other] < FLOOR_OF[room], f"{relative} imports {other}, which is not below {room}"


def test_the_floors_are_those_of_the_contributing_guide():
    guide = PACKAGE.parent / "CONTRIBUTING.md"
    rows = [line.split("|")[1:3] for line in guide.read_text().splitlines() if line.startswith("| ")]
    told = {
        int(floor): set(names.replace("`", "").replace("/", "").split(", "))
        for floor, names in ((floor.strip(), names.strip()) for floor, names in rows)
        if floor.isdigit()
    }
    assert {floor: names - {"_C"} for floor, names in told.items()} == dict(enumerate(map(set, FLOORS)))


def test_no_module_is_longer_than_a_few_screens():
    root = PACKAGE.parent
    for folder in ("dgdd_fast", "dgdd_command", "bench", "examples", "csrc", "python_tests"):
        for file in (root / folder).rglob("*.py"):
            assert len(file.read_text().splitlines()) <= 400, f"{file.relative_to(root)}: take it apart"


def test_tests_import_helpers_but_no_other_tests():
    tests = PACKAGE.parent / "python_tests"
    for file in tests.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(name.startswith("test_") for name in names), f"{file.relative_to(tests)}: {names}"


def test_no_two_modules_that_tests_import_have_one_name():
    """The folders of pytest's `pythonpath` are one space of names."""
    root = PACKAGE.parent
    folders = ("bench", "csrc", "csrc/tests", "examples", "python_tests/helpers")
    names = [file.stem for folder in folders for file in (root / folder).glob("*.py")]
    assert len(names) == len(set(names)), sorted(name for name in set(names) if names.count(name) > 1)
