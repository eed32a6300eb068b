"""Every Python that is started after `espnet_rand.register()` registers by itself; what cannot is warned of."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from espnet_rand import processes
from espnet_rand.processes import STARTUP, with_startup

ROOT = Path(__file__).parents[2]
REGISTERING = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from espnet_rand.processes import register_children; "
CHILDREN = '''
"""Builds a model in a child of every kind. None of them registers; all run at once."""

import json
import multiprocessing
import os
import subprocess
import sys
import threading
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from pathlib import Path


def quantized(folder):
    """How many layers are, in a child as a user writes it."""
    from espnet2.tasks.asr import ASRTask

    model, _ = ASRTask.build_model_from_file(f"{folder}/config.yaml", None, "cpu")
    from espnet_rand.layers import quantized_layers

    return len(quantized_layers(model))


def pools(stack):
    """Calls that submit a function and its argument to a process of a kind, for each kind."""
    for kind in ("spawn", "forkserver"):
        pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(kind))
        yield kind, stack.enter_context(pool).submit
    try:
        from joblib.externals.loky import ProcessPoolExecutor as Loky
    except ImportError:
        pass
    else:
        yield "loky", stack.enter_context(Loky(1)).submit
    try:
        from distributed import Client, LocalCluster
    except ImportError:
        return
    cluster = stack.enter_context(LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None))
    yield "dask", stack.enter_context(Client(cluster)).submit


def main(root, folder):
    server = multiprocessing.get_context("forkserver").Process()
    server.start()
    server.join()
    import espnet_rand

    thread = threading.Thread(target=espnet_rand.register)
    thread.start()
    thread.join()
    sys.path.insert(0, root)
    from tests.toolkit.tasks import write_config

    write_config("asr", Path(folder), quantizer="rand", quantizer_conf={"bits": 4})
    os.chdir(folder)
    below = subprocess.Popen([sys.executable, __file__, folder], stdout=subprocess.PIPE, text=True)
    with ExitStack() as stack:
        futures = {kind: submit(quantized, folder) for kind, submit in pools(stack)}
        counts = {kind: future.result() for kind, future in futures.items()}
    counts["subprocess"] = int(below.communicate()[0].split()[-1])
    print(json.dumps({"here": quantized(folder), **counts}))


if __name__ == "__main__":
    print(quantized(sys.argv[1])) if len(sys.argv) == 2 else main(*sys.argv[1:])
'''


@pytest.fixture
def environment(monkeypatch):
    """PYTHONPATH is taken back afterwards."""
    monkeypatch.setenv("PYTHONPATH", "")
    monkeypatch.setattr(processes, "_leave_forkserver", lambda: None)
    return monkeypatch


def test_every_process_that_is_started_afterwards_is_quantized(run, tmp_path):
    """After registering in a thread, in another directory, and with a fork server that ran before."""
    script = tmp_path / "children.py"
    script.write_text(CHILDREN)
    done = run("python", script, ROOT, tmp_path / "exp", PYTHONPATH="")
    counts = json.loads(done.stdout.splitlines()[-1])
    assert {"here", "spawn", "forkserver", "subprocess"} <= counts.keys()
    assert set(counts.values()) == {counts["here"]} and counts["here"] > 10, counts
    assert "espnet_rand: " not in done.stderr, "nothing to warn of"


@pytest.mark.parametrize(
    "before, after",
    [
        ("", "{}"),
        ("{}", "{}"),
        ("a:b", "{}:a:b"),
        ("{}:a", "{}:a"),
        ("a:{}:b:{}", "{}:a:b"),
        (":a", "{}::a"),
        ("a:", "{}:a:"),
    ],
)
def test_the_startup_folder_is_first_and_once_on_pythonpath(before, after, environment):
    before, after = (path.replace("{}", str(STARTUP)).replace(":", os.pathsep) for path in (before, after))
    environment.setenv("PYTHONPATH", before)
    for _ in range(3):
        processes.register_children()
        assert os.environ["PYTHONPATH"] == with_startup(before) == after


def test_a_package_that_is_only_on_the_parents_path(run, tmp_path):
    """In a Python without this environment's packages, and below it one that starts elsewhere."""
    finds = "import espnet_rand; print(espnet_rand.__file__)"
    below = f"import os; os.chdir({str(tmp_path)!r}); os.execv(sys.executable, [sys.executable, '-c', {finds!r}])"
    python = getattr(sys, "_base_executable", sys.executable)
    done = run(python, "-c", f"{REGISTERING}register_children(); {below}", PYTHONPATH="")
    assert done.stdout.strip() == str(ROOT / "espnet_rand/__init__.py")


def test_two_startup_folders_and_a_sitecustomize_run_once_each(run, tmp_path):
    """As where a script below the launcher registers with another copy of espnet_rand."""
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "sitecustomize.py").write_text("print('theirs')")
    other = shutil.copytree(STARTUP, tmp_path / "espnet_rand/startup")
    counts = "import sys; print([getattr(f, '__name__', None) for f in sys.meta_path].count('_FindPackage'))"
    for path in ([STARTUP, other, theirs], [other, STARTUP, theirs]):
        done = run("python", "-c", counts, PYTHONPATH=os.pathsep.join(map(str, path)))
        assert done.stdout.split() == ["theirs", "2"] and not done.stderr


@pytest.mark.parametrize("flag", ["-E", "-I", "-S"])
def test_options_of_python_that_children_inherit_are_warned_of_once(run, flag):
    done = run("python", flag, "-c", f"{REGISTERING}register_children(); register_children()")
    assert len(done.stderr.splitlines()) == 1 and "-E, -I or -S" in done.stderr


def test_processes_that_run_already_are_warned_of(run):
    starts = "import multiprocessing, time; context = multiprocessing.get_context('fork'); "
    starts += "context.Process(target=time.sleep, args=(60,), name='worker-1', daemon=True).start(); "
    done = run("python", "-c", f"{REGISTERING}{starts}register_children(); register_children()", PYTHONPATH="")
    assert len(done.stderr.splitlines()) == 1 and "worker-1" in done.stderr


def test_a_warning_leaves_the_root_logger_to_espnet(environment, caplog):
    processes._warn.cache_clear()
    environment.setattr(sys, "flags", type("flags", (), {"ignore_environment": 1, "no_site": 0}))
    environment.setattr("logging.basicConfig", lambda **_: pytest.fail("it is ESPnet's"))
    processes.register_children()
    assert "in each process" in caplog.text
