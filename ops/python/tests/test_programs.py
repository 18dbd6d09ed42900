"""Whole programs: by hand, asked what they are, bundled."""

import os
import subprocess
import sys
import tempfile
import unittest

PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

WORDS = """\
import rainstorm
import sys

@rainstorm.transform(text=True)
def words(key, value):
    print("not an output")
    for word in value.split():
        yield word, key

rainstorm.run()
"""


class Programs(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name

    def write(self, name, text):
        path = os.path.join(self.folder, name)
        with open(path, "w") as file:
            file.write(text)
        return path

    def start(self, *command, input=b"", installed=True, **environment):
        environment = {**os.environ, **environment}
        for name in ("RAINSTORM_DESCRIBE", "RAINSTORM_PROTOCOL"):
            if environment.get(name) is None:
                environment.pop(name, None)
        environment.pop("PYTHONPATH", None)
        if installed:
            environment["PYTHONPATH"] = PACKAGE
        return subprocess.run(command, input=input, capture_output=True, env=environment, timeout=60, cwd=self.folder)

    def test_by_hand(self):
        text = WORDS.replace('    print("not an output")\n', "")
        done = self.start(sys.executable, self.write("op.py", text), input=b"a b\r\nc\n\nd")
        want = b"a\tstdin:1\nb\tstdin:1\nc\tstdin:2\nd\tstdin:4\n"
        self.assertEqual((done.stdout, done.returncode), (want, 0), done.stderr)
        text = "import rainstorm\n@rainstorm.filter\ndef f(value):\n    return 1 // len(value)\nrainstorm.run()\n"
        done = self.start(sys.executable, self.write("op.py", text), input=b"a\nb\n\n")
        self.assertIn(b"ZeroDivisionError", done.stderr)
        self.assertIn(b"at line 3", done.stderr)
        self.assertEqual(done.returncode, 1)

    def test_a_terminal_is_shown_what_it_would_obey(self):
        text = "import rainstorm\n@rainstorm.transform\ndef f(value):\n    return value\nrainstorm.run()\n"
        program, given = self.write("op.py", text), b"\x1b]0;owned\x07 \xc3\xa9 \xff\n"
        piped = self.start(sys.executable, program, input=given)
        self.assertEqual(piped.stdout, b"stdin:1\t" + given, piped.stderr)
        in_pty = "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))"
        shell = 'printf "$0" | "$1" "$2"'
        words = (given.decode("latin-1").encode("unicode_escape").decode(), sys.executable, program)
        seen = self.start(sys.executable, "-c", in_pty, "bash", "-c", shell, *words)
        self.assertIn(rb"\x1b]0;owned\x07 " + "é".encode() + rb" \xff", seen.stdout)
        self.assertNotIn(b"\x1b", seen.stdout)

    def test_described(self):
        done = self.start(sys.executable, self.write("op.py", WORDS), RAINSTORM_DESCRIBE="1")
        want = b"rainstorm-operator/1 kind=transform protocol=batch snapshot=yes deterministic=yes keys=yes\n"
        self.assertEqual((done.stdout, done.returncode), (want, 0))

    def test_what_is_forgotten_is_said(self):
        for text, says in (
            (WORDS.replace("rainstorm.run()", ""), b"run() is missing"),
            ("import rainstorm\nrainstorm.run()\n", b"found no operator"),
            (WORDS.replace("rainstorm.run()", "rainstorm.filter(len)\nrainstorm.run()"), b"which of the operators"),
            (WORDS.replace("run()", "run(print)"), b"not an operator"),
        ):
            done = self.start(sys.executable, self.write("op.py", text), RAINSTORM_DESCRIBE="1")
            self.assertIn(says, done.stdout + done.stderr)
            self.assertFalse(done.stdout.startswith(b"rainstorm-operator"))

    def test_a_bundle_needs_nothing_else(self):
        helper = self.write("helper.py", "def shout(value):\n    return value.upper()\n")
        text = "import rainstorm, helper\n@rainstorm.transform\ndef f(value):\n    return helper.shout(value)\nrainstorm.run()\n"
        program = self.write("op.py", text)
        out = os.path.join(self.folder, "op")
        command = [sys.executable, "-m", "rainstorm", "bundle", program, helper]
        done = self.start(*command, "-o", out)
        self.assertIn(b"kind=transform", done.stderr)
        self.assertEqual(done.returncode, 0)
        os.remove(helper)
        ran = self.start(out, input=b"abc\n", installed=False)
        self.assertEqual(ran.stdout, b"stdin:1\tABC\n", ran.stderr)
        # The same again, byte for byte, and on standard output.
        self.write("helper.py", "def shout(value):\n    return value.upper()\n")
        with open(out, "rb") as file:
            self.assertEqual(self.start(*command).stdout, file.read())

    def test_a_bundle_that_cannot_work_is_not_made(self):
        program = self.write("op.py", "import nothing_of_that_name\n")
        done = self.start(sys.executable, "-m", "rainstorm", "bundle", program, "-o", "out")
        self.assertEqual(done.returncode, 1)
        self.assertIn(b"nothing_of_that_name", done.stderr)
        self.assertFalse(os.path.exists(os.path.join(self.folder, "out")))


if __name__ == "__main__":
    unittest.main()
