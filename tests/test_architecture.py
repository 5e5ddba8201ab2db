"""The structure of the code: import directions, annotations, lengths."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = "brats_tfrecord"

ROOMS = (
    "errors",
    "spec",
    "files",
    "options",
    "wording",
    "boxes",
    "stopping",
    "quiet_import",
    "targets",
    "tf_padding",
    "brain",
    "pieces",
    "metrics",
    "cohort",
    "preprocess",
    "phantom",
    "records",
    "training",
    "serving",
    "evaluation",
    "report",
    "workflow",
)
"""Rooms of the package, from the top down."""

TRAINING_ROOMS = ("data", "network", "optimization", "distribution", "logbook")
"""Rooms inside `training/`, from the top down; the modules beside them come below them all."""

FORBIDDEN = {("serving", "training"), ("evaluation", "training"), ("report", "training")}
"""(room, room) that must not import each other although their order would let them."""

MODELS = {"tensorflow", f"{PACKAGE}.serving.predict", f"{PACKAGE}.serving.export"}
"""What `report/` must not import: it knows no model."""

DOORS = {
    "tensorflow_addons": {f"{PACKAGE}/training/optimization/addons.py"},
    "joblib": {f"{PACKAGE}/records/pool.py"},
    "ants": {f"{PACKAGE}/preprocess/n4.py"},
}
"""Package -> the only files of the library that import it."""

LONGEST_FUNCTION = 60
"""Lines, signature and docstring included."""

FILES = sorted(
    path
    for folder in (PACKAGE, "app", "tools")
    for path in (ROOT / folder).rglob("*.py")
    if path != ROOT / PACKAGE / "__init__.py"
)
LIBRARY = [path for path in FILES if path.is_relative_to(ROOT / PACKAGE)]


def relative(path):
    return path.relative_to(ROOT).as_posix()


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
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def room_of(path):
    return path.relative_to(ROOT / PACKAGE).parts[0].removesuffix(".py")


def module_name(path):
    """Dotted name of a file; tools import each other by their bare names."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    if parts[0] == "tools":
        return parts[-1]
    return ".".join(parts).removesuffix(".__init__")


@pytest.mark.parametrize("path", LIBRARY, ids=relative)
def test_a_room_imports_only_rooms_above_it(path):
    room = room_of(path)
    for name in imports(path):
        parts = name.split(".")
        if parts[0] != PACKAGE or len(parts) < 2 or parts[1] not in ROOMS:
            continue
        other = parts[1]
        assert ROOMS.index(other) <= ROOMS.index(room), f"{room} imports {other}"
        assert (room, other) not in FORBIDDEN, f"{room} imports {other}"


@pytest.mark.parametrize(
    "path", [path for path in LIBRARY if room_of(path) == "training"], ids=relative
)
def test_a_room_of_training_imports_only_rooms_above_it(path):
    def rank(parts):
        inside = len(parts) > 2 and parts[2] in TRAINING_ROOMS
        return TRAINING_ROOMS.index(parts[2]) if inside else len(TRAINING_ROOMS)

    own = module_name(path).split(".")
    for name in imports(path):
        parts = name.split(".")
        if parts[:2] == [PACKAGE, "training"] and len(parts) > 2:
            assert rank(parts) <= rank(own), f"{module_name(path)} imports {name}"


def test_every_room_is_known():
    assert {room_of(path) for path in LIBRARY} <= set(ROOMS)


def test_the_library_imports_neither_app_nor_tools_nor_streamlit():
    for path in LIBRARY:
        tops = {name.split(".")[0] for name in imports(path)}
        assert not tops & {"app", "tools", "command_line", "streamlit"}, relative(path)


def test_the_report_knows_no_model():
    for path in LIBRARY:
        if room_of(path) == "report":
            assert not set(imports(path)) & MODELS, relative(path)


def test_no_two_rooms_have_a_module_of_one_name():
    seen = {}
    for path in FILES:
        if path.stem != "__init__" and path.parts[-2] != "tools":
            assert path.stem not in seen, f"{relative(path)} and {seen[path.stem]}"
            seen[path.stem] = relative(path)


def test_modules_import_each_other_in_one_direction():
    graph = {module_name(path): set(imports(path)) for path in FILES}
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
    users = {
        relative(path)
        for path in LIBRARY
        if any(name.split(".")[0] == package for name in imports(path))
    }
    assert users == doors


def functions(path):
    """(name, node, whether it is public) of every function of a file, methods included."""

    def visit(body, prefix, public):
        for node in body:
            if isinstance(node, ast.ClassDef):
                yield from visit(
                    node.body, f"{prefix}{node.name}.", public and not node.name.startswith("_")
                )
            elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                shown = not node.name.startswith("_") or node.name == "__init__"
                yield f"{prefix}{node.name}", node, public and shown

    return list(visit(ast.parse(path.read_text()).body, "", True))


def without_annotation(node):
    """Names of a function's parameters, and "return", that have no annotation."""
    arguments = node.args
    listed = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    listed += [extra for extra in (arguments.vararg, arguments.kwarg) if extra]
    missing = [a.arg for a in listed if a.annotation is None and a.arg not in ("self", "cls")]
    if node.returns is None and node.name != "__init__":
        missing.append("return")
    return missing


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_public_functions_are_annotated(path):
    missing = {
        name: without_annotation(node)
        for name, node, public in functions(path)
        if public and without_annotation(node)
    }
    assert not missing


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_no_function_is_longer_than_a_screen(path):
    lengths = {name: node.end_lineno - node.lineno + 1 for name, node, _ in functions(path)}
    assert {name: length for name, length in lengths.items() if length > LONGEST_FUNCTION} == {}
