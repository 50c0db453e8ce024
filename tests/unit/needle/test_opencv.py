"""Drawing without system libraries reports what to install; everything else works."""

import subprocess
import sys

import pytest

from hart_studio.errors import DataError
from hart_studio.needle.opencv import MissingOpenCv

WITHOUT = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name == "cv2":
            raise ImportError("libGL.so.1: cannot open shared object file")

sys.meta_path.insert(0, Missing())
import hart_studio.data.run_samples
from hart_studio.errors import DataError
from hart_studio.needle.dataset import iterate_items
from hart_studio.needle.drawing import draw_scene
for item in iterate_items("val", 1):
    try:
        draw_scene(item.scene, (640, 480))
    except DataError as error:
        print(error)
"""


def test_who_draws_gets_installation_advice() -> None:
    with pytest.raises(DataError, match="apt-get install libgl1"):
        MissingOpenCv("libGL.so.1 is not there").resize()
    assert not hasattr(MissingOpenCv("x"), "__path__")


def test_the_package_is_imported_without_it() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "libGL.so.1: cannot open" in done.stdout and "apt-get install" in done.stdout
