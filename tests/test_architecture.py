"""Rooms import only rooms above them, and rare packages have one door each."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "brats_tfrecord"
ROOMS = ("errors", "spec", "files", "metrics", "cohort", "preprocess", "records", "training",
         "serving", "report", "workflow")
FORBIDDEN = {("serving", "training"), ("report", "training")}
DOORS = {
    "tensorflow_addons": {"training/optimizers.py"},
    "joblib": {"records/pool.py"},
    "ants": {"preprocess/n4.py"},
    "streamlit": set(),
}


def imports(path):
    """Dotted names that a file imports, at any depth."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if is_module(whole) else node.module


def is_module(name):
    place = ROOT / Path(*name.split("."))
    return place.with_suffix(".py").exists() or (place / "__init__.py").exists()


def room_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


FILES = sorted(path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE
               or path.name != "__init__.py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_a_room_imports_only_rooms_above_it(path):
    room = room_of(path)
    for name in imports(path):
        parts = name.split(".")
        if parts[0] != "brats_tfrecord" or len(parts) < 2 or parts[1] not in ROOMS:
            continue
        other = parts[1]
        assert ROOMS.index(other) <= ROOMS.index(room), f"{room} imports {other}"
        assert (room, other) not in FORBIDDEN, f"{room} imports {other}"


def test_every_room_is_known():
    assert {room_of(path) for path in FILES} <= set(ROOMS)


def test_modules_of_a_room_import_each_other_in_one_direction():
    graph = {}
    for path in FILES:
        module = "brats_tfrecord." + ".".join(
            path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
        graph[module] = set(imports(path))
    done, under_way = set(), []

    def visit(module):
        assert module not in under_way, " -> ".join([*under_way, module])
        if module in graph and module not in done:
            under_way.append(module)
            for other in graph[module] - {module}:
                visit(other)
            under_way.pop()
            done.add(module)

    for module in graph:
        visit(module)


@pytest.mark.parametrize("package, doors", DOORS.items())
def test_rare_packages_have_one_door(package, doors):
    users = {path.relative_to(PACKAGE).as_posix() for path in FILES
             if any(name.split(".")[0] == package for name in imports(path))}
    assert users == doors
