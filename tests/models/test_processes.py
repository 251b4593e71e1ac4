"""Models in forked processes, pickling, and limits of the operating system on memory and threads."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gptbigcode_cpu import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DynamicCache,
    GPTBigCodeError,
    GPTBigCodeForCausalLM,
    PicklingError,
    TextGenerationPipeline,
    _core,
)


@pytest.fixture(scope="module")
def checkpoint(make_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("processes") / "checkpoint", n_positions=1024)


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> GPTBigCodeForCausalLM:
    return AutoModelForCausalLM.from_pretrained(checkpoint, num_threads=2)


def run(code: str, *arguments: object) -> list[str]:
    """The lines that a program prints. A child that hangs is ended by SIGALRM, and the program then fails."""
    program = textwrap.dedent(code)
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", program, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    if done.stderr == "cannot become another user\n":
        pytest.skip(done.stderr)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


# Several children, because not every fork finds the lock taken. `in_child` gets the model and the tokenizer.
FORKS = """
    import gc, os, signal, sys, threading
    import numpy as np
    from gptbigcode_cpu import AutoModelForCausalLM, AutoTokenizer, ForkError

    model = AutoModelForCausalLM.from_pretrained(sys.argv[1], num_threads=2)
    tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
    ids, started, done = np.arange(600)[None] % 250, threading.Event(), threading.Event()

    def work():
        while not done.is_set():
            started.set()
            busy()

    def fork(in_child):
        child = os.fork()
        if child:
            return os.waitpid(child, 0)[1]
        signal.alarm(30)
        try:
            in_child()
        except BaseException as error:
            os.write(2, repr(error).encode())
            os._exit(1)
        if ends_with_exit:
            sys.exit(0)
        os._exit(0)

    ends_with_exit = False
    exec(sys.argv[2])
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    started.wait()
    statuses = [fork(in_child) for _ in range(4)]
    done.set()
    thread.join()
    print(*statuses)
"""


def fork_while_busy(checkpoint: Path, code: str) -> None:
    """Forks while a thread runs `busy` again and again; fails if `in_child` raises or hangs in a child."""
    assert run(FORKS, checkpoint, textwrap.dedent(code)) == [" ".join("0" * 4)]


@pytest.mark.parametrize("use", ["model(ids)", "model.generate(ids[:, :5], max_new_tokens=3)", "model.core.start_profile()"])
def test_a_forked_child_is_told_while_another_thread_computes(checkpoint: Path, use: str) -> None:
    fork_while_busy(
        checkpoint,
        f"""
        def busy():
            model(ids, logits_to_keep=1)

        def in_child():
            try:
                {use}
            except ForkError as error:
                assert "load the model in each child" in str(error) and "\\n" not in str(error)
            else:
                raise AssertionError("no error")
        """,
    )


@pytest.mark.parametrize("end", ["gc.collect()", "gc.collect(); os._exit(0)", "globals().update(ends_with_exit=True)"])
def test_a_forked_child_drops_the_model_opens_it_again_and_ends(checkpoint: Path, end: str) -> None:
    fork_while_busy(
        checkpoint,
        f"""
        running = model

        def busy():
            running(ids, logits_to_keep=1)

        def in_child():
            global model, running
            del model, running
            gc.collect()
            again = AutoModelForCausalLM.from_pretrained(sys.argv[1], num_threads=2)
            assert again.generate(ids[:, :5], max_new_tokens=3).shape == (1, 8)
            {end}
        """,
    )


def test_a_forked_child_goes_on_with_the_tokenizer(checkpoint: Path) -> None:
    fork_while_busy(
        checkpoint,
        """
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        text = "x = 1\\n" * 2000

        def busy():
            tokenizer(text, truncation=True, max_length=8)

        def in_child():
            assert len(tokenizer(text, truncation=True, max_length=8)["input_ids"]) == 8
        """,
    )


def test_multiprocessing_tells_too(checkpoint: Path) -> None:
    code = """
        import multiprocessing, sys
        from gptbigcode_cpu import AutoModelForCausalLM, GPTBigCodeError

        model = AutoModelForCausalLM.from_pretrained(sys.argv[1], num_threads=2)

        def call(token):
            try:
                return model([[token]]).logits.shape
            except GPTBigCodeError as error:
                return type(error).__name__

        with multiprocessing.get_context("fork").Pool(2) as pool:
            print(*pool.map(call, range(3)))
        print(model([[1]]).logits.shape[:2])
        """
    assert run(code, checkpoint) == ["ForkError ForkError ForkError", "(1, 1)"]


def test_models_and_what_belongs_to_them_are_not_pickled(checkpoint: Path, model: GPTBigCodeForCausalLM) -> None:
    cache = DynamicCache()
    model([[1, 2]], past_key_values=cache)
    pipeline = TextGenerationPipeline(model, AutoTokenizer.from_pretrained(checkpoint))
    objects: list[Any] = [model, model.transformer, model.core, model.get_input_embeddings(), pipeline]
    parts: list[Any] = [_core.KVCache(model.core), _core.Sampler(), _core.SuffixIndex()]
    for thing in [*objects, *parts, cache]:
        for protocol in (2, pickle.HIGHEST_PROTOCOL):
            with pytest.raises(PicklingError, match="cannot be pickled or copied: ") as caught:
                pickle.dumps(thing, protocol)
            assert isinstance(caught.value, GPTBigCodeError)
            assert isinstance(caught.value, TypeError)
    for thing in [*objects, *parts]:
        with pytest.raises(PicklingError):
            copy.deepcopy(thing)
    with pytest.raises(PicklingError, match="from_pretrained"):
        pickle.dumps(model)
    assert copy.deepcopy(cache).get_seq_length() == 2
    assert pickle.loads(pickle.dumps(DynamicCache())).get_seq_length() == 0


def test_too_few_threads_are_an_error_with_advice(checkpoint: Path) -> None:
    code = """
        import resource, sys
        from gptbigcode_cpu import AutoModelForCausalLM, ThreadLimitError

        model = AutoModelForCausalLM.from_pretrained(sys.argv[1], num_threads=1)
        pages = int(open("/proc/self/statm").read().split()[0])
        # Threads need room for their stacks.
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (100 << 20), -1))
        try:
            AutoModelForCausalLM.from_pretrained(sys.argv[1], num_threads=1000)
        except ThreadLimitError as error:
            print(error)
        print(AutoModelForCausalLM.from_pretrained(sys.argv[1], num_threads=2)([[1]]).logits.shape[:2])
        """
    message, others = run(code, checkpoint)
    assert "of 1000 threads could be started" in message
    assert "num_threads" in message
    assert "ulimit -u" in message
    assert others == "(1, 1)"


@pytest.mark.parametrize("parallel", ["true", "false"])
def test_a_process_that_may_start_no_threads_is_told_by_all(checkpoint: Path, parallel: str) -> None:
    code = """
        import os, resource, sys
        from gptbigcode_cpu import AutoModelForCausalLM, AutoTokenizer, ThreadLimitError

        os.environ["TOKENIZERS_PARALLELISM"] = sys.argv[2]
        tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
        model = AutoModelForCausalLM.from_pretrained(sys.argv[1], num_threads=1)
        packed = model._packed
        model.generate([[1]], max_new_tokens=1)  # loads what it needs
        resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
        try:
            if os.getuid() == 0:
                os.setuid(65534)  # no limit binds root
        except OSError:
            sys.exit("cannot become another user")
        from gptbigcode_cpu.store.weights import load_core

        try:
            load_core(packed, num_threads=2)
        except ThreadLimitError as error:
            print("only 1 of 2" in str(error))
        try:
            print(len(tokenizer(["x"] * 3)["input_ids"]))
        except ThreadLimitError as error:
            print("TOKENIZERS_PARALLELISM=false" in str(error))
        print(model.generate([[1]], max_new_tokens=1).shape)
        """
    assert run(code, checkpoint, parallel) == ["True", "3" if parallel == "false" else "True", "(1, 2)"]


# CPU quotas of control groups, in file systems that are made up: paths and what they hold.
V2_MOUNT = "30 23 0:29 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
UNIFIED_MOUNT = "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
V1_MOUNT = (
    "32 31 0:29 {root} /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 master:1 - cgroup cgroup rw,cpu,cpuacct\n"
    "33 31 0:30 {root} /sys/fs/cgroup/cpuset rw,relatime - cgroup cgroup rw,cpuset\n"
)
V1 = "12:cpuset:/other\n4:cpu,cpuacct:/docker/abc/job\n0::/\n"
QUOTAS: dict[str, tuple[float, dict[str, str]]] = {
    "nothing is there": (np.inf, {}),
    "no /proc": (1.5, {"/sys/fs/cgroup/cpu.max": "150000 100000\n"}),
    "no limit": (np.inf, {"/proc/self/cgroup": "0::/a\n", "/sys/fs/cgroup/a/cpu.max": "max 100000\n"}),
    "the own group": (0.5, {"/proc/self/cgroup": "0::/user.slice/run-1.scope\n", "/proc/self/mountinfo": V2_MOUNT,
                            "/sys/fs/cgroup/user.slice/run-1.scope/cpu.max": "50000 100000\n"}),
    "one above": (2, {"/proc/self/cgroup": "0::/user.slice/a/b\n", "/sys/fs/cgroup/user.slice/a/b/cpu.max": "max 100000\n",
                      "/sys/fs/cgroup/user.slice/cpu.max": "200000 100000\n"}),
    "the least of all": (1, {"/proc/self/cgroup": "0::/a/b\n", "/sys/fs/cgroup/a/b/cpu.max": "300000 100000\n",
                             "/sys/fs/cgroup/a/cpu.max": "100000 100000\n", "/sys/fs/cgroup/cpu.max": "200000 100000\n"}),
    "another group's does not count": (np.inf, {"/proc/self/cgroup": "0::/a\n", "/sys/fs/cgroup/b/cpu.max": "1000 100000\n",
                                                "/sys/fs/cgroup/a/below/cpu.max": "1000 100000\n"}),
    "a name that begins like another": (np.inf, {"/proc/self/cgroup": "0::/ab\n", "/sys/fs/cgroup/a/cpu.max": "1000 100000\n"}),
    "the root of a namespace": (3, {"/proc/self/cgroup": "0::/\n", "/sys/fs/cgroup/cpu.max": "300000 100000\n"}),
    "outside of the namespace": (3, {"/proc/self/cgroup": "0::/../other\n", "/proc/self/mountinfo": V2_MOUNT,
                                     "/sys/fs/cgroup/cpu.max": "300000 100000\n", "/sys/fs/other/cpu.max": "1000 100000\n"}),
    "mounted elsewhere": (4, {"/proc/self/cgroup": "0::/a b\n",
                              "/proc/self/mountinfo": "30 23 0:29 / /mnt/c\\040g rw - cgroup2 none rw\n",
                              "/mnt/c g/a b/cpu.max": "400000 100000\n"}),
    "hybrid, version 2 without the controller": (2.5, {
        "/proc/self/cgroup": "1:cpu:/a\n0::/b\n",
        "/proc/self/mountinfo": "38 31 0:35 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n" + UNIFIED_MOUNT,
        "/sys/fs/cgroup/cpu/a/cpu.cfs_quota_us": "250000\n", "/sys/fs/cgroup/cpu/a/cpu.cfs_period_us": "100000\n"}),
    "version 2 below unified": (2, {"/proc/self/cgroup": "1:cpuset:/\n0::/b\n", "/proc/self/mountinfo": UNIFIED_MOUNT,
                                    "/sys/fs/cgroup/unified/b/cpu.max": "200000 100000\n"}),
    "version 1": (1.5, {"/proc/self/cgroup": V1, "/proc/self/mountinfo": V1_MOUNT.format(root="/"),
                        "/sys/fs/cgroup/cpu,cpuacct/docker/abc/job/cpu.cfs_quota_us": "75000\n",
                        "/sys/fs/cgroup/cpu,cpuacct/docker/abc/job/cpu.cfs_period_us": "50000\n"}),
    "version 1, no limit": (np.inf, {"/proc/self/cgroup": V1, "/proc/self/mountinfo": V1_MOUNT.format(root="/"),
                                     "/sys/fs/cgroup/cpu,cpuacct/docker/abc/job/cpu.cfs_quota_us": "-1\n",
                                     "/sys/fs/cgroup/cpu,cpuacct/docker/abc/job/cpu.cfs_period_us": "100000\n"}),
    "version 1 in a container that shows a part": (0.25, {
        "/proc/self/cgroup": V1, "/proc/self/mountinfo": V1_MOUNT.format(root="/docker/abc"),
        "/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "25000\n", "/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
        "/sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us": "-1\n"}),
    "version 1, another controller's directory": (np.inf, {
        "/proc/self/cgroup": V1, "/proc/self/mountinfo": V1_MOUNT.format(root="/"),
        "/sys/fs/cgroup/cpuset/other/cpu.cfs_quota_us": "1000\n", "/sys/fs/cgroup/cpuset/other/cpu.cfs_period_us": "100000\n"}),
    "garbage": (np.inf, {"/proc/self/cgroup": "0\n:\nx:y\n0::/a\n", "/proc/self/mountinfo": "x\n - \na b c d e - cgroup2\n",
                         "/sys/fs/cgroup/a/cpu.max": "-5 none\n"}),
    "a group that is gone": (2, {"/proc/self/cgroup": "0::/a/b (deleted)\n", "/sys/fs/cgroup/a/cpu.max": "200000 100000\n"}),
    "more than there are": (1e12, {"/proc/self/cgroup": "0::/\n", "/sys/fs/cgroup/cpu.max": "1000000000000000000 1000000"}),
}  # fmt: skip


@pytest.mark.parametrize("case", QUOTAS)
def test_quotas_of_the_own_group_and_those_above(case: str, tmp_path: Path) -> None:
    expected, files = QUOTAS[case]
    for name, content in files.items():
        path = tmp_path / name[1:]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="ascii")
    assert _core.cpu_quota(str(tmp_path)) == expected


def test_the_default_number_of_threads_is_within_the_quota() -> None:
    assert 1 <= _core.default_num_threads() <= max(1.0, _core.cpu_quota())
