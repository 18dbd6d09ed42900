"""Makes one executable file of an operator: it needs nothing on the nodes but python3."""

import argparse
import io
import os
import stat
import subprocess
import sys
import tempfile
import zipfile

PACKAGE = os.path.dirname(os.path.abspath(__file__))


def bundle(program, more=(), python="/usr/bin/env python3"):
    """The executable's bytes: an archive that Python runs, behind a first line that names Python.

    The same files give the same bytes, so that an operator that has not changed is not shipped again.
    """
    files = {"__main__.py": program}
    for path in (PACKAGE, *more):
        files.update(_files(path))
    packed = io.BytesIO()
    packed.write(f"#!{python}\n".encode())
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            with open(files[name], "rb") as file:
                archive.writestr(entry, file.read())
    return packed.getvalue()


def _files(path):
    """Name in the archive: path, of a module or of a whole package."""
    path = os.path.abspath(path)
    top = os.path.dirname(path)
    if os.path.isfile(path):
        return {os.path.basename(path): path}
    found = {}
    for folder, folders, names in os.walk(path):
        folders[:] = [f for f in folders if f != "__pycache__"]
        for name in names:
            if not name.endswith((".pyc", ".pyo")):
                full = os.path.join(folder, name)
                found[os.path.relpath(full, top)] = full
    if not found:
        raise FileNotFoundError(f"{path} is no file, nor a folder with files")
    return found


def check(executable):
    """What the finished executable says that it is; a ValueError if it says nothing sensible."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "operator")
        with open(path, "wb") as file:
            file.write(executable)
        environment = {**os.environ, "RAINSTORM_DESCRIBE": "1"}
        environment.pop("PYTHONPATH", None)
        done = subprocess.run(
            [sys.executable, path], stdin=subprocess.DEVNULL, capture_output=True, text=True, env=environment, timeout=60
        )
    if not done.stdout.startswith("rainstorm-operator/"):
        raise ValueError((done.stdout + done.stderr).strip() or "it does not say what it is: is rainstorm.run() called?")
    return done.stdout.strip()


def main(args=None):
    parser = argparse.ArgumentParser(
        prog="python3 -m rainstorm bundle", description="Make one executable file of an operator written in Python."
    )
    parser.add_argument("program", help="the program that ends with rainstorm.run()")
    parser.add_argument("more", nargs="*", help="modules and packages of yours that it imports")
    parser.add_argument("-o", "--output", help="the file to make (default: standard output)")
    parser.add_argument("--no-check", action="store_true", help="do not run it once to see what it says that it is")
    parser.add_argument("--python", default="/usr/bin/env python3", help="what runs it on the nodes (default: %(default)s)")
    options = parser.parse_args(args)
    if options.output is None and sys.stdout.isatty():
        parser.error("say where it should go: -o FILE")
    try:
        executable = bundle(options.program, options.more, options.python)
        says = "not checked" if options.no_check else check(executable)
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        print(f"{options.program}: {error}", file=sys.stderr)
        return 1
    if options.output is None:
        sys.stdout.buffer.write(executable)
    else:
        with open(options.output, "wb") as file:
            file.write(executable)
        mode = os.stat(options.output).st_mode
        os.chmod(options.output, mode | ((mode & (stat.S_IRUSR | stat.S_IRGRP | stat.S_IROTH)) >> 2))
    print(f"{options.output or 'bundled'}: {says}", file=sys.stderr)
    return 0
