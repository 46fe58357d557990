"""What somebody who means ill would name in a config, put in a file's place, or call a run."""

import json


class OnLoad:
    """Calls a function when it is unpickled."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


EVIL = """
import os, pathlib
mark = pathlib.Path(os.environ["EVIL_MARK"])
mark.write_text("imported")
def touch(*_, **__):
    mark.write_text("called")
class Evil:
    def __init__(self, *_, **__):
        touch()
    def __getattr__(self, name):
        return lambda **_: None
"""
"""A module that leaves a mark when it is imported, and when what is in it is called."""


def targets(sandbox):
    """What an attacker would name, and how it would have to be called to leave the mark."""
    mark, bad = str(sandbox.mark), str(sandbox.bad)
    touch = f"import pathlib; pathlib.Path({mark!r}).touch()"
    plain = {
        "builtins.open": {"file": mark, "mode": "w"},
        "builtins.exec": {"_args_": [touch]},
        "builtins.eval": {"_args_": [f"open({mark!r}, 'w')"]},
        "builtins.__import__": {"name": "evil"},
        "builtins.setattr": {"_args_": [{"_target_": "evil.Evil"}, "x", 1]},
        "builtins.getattr": {"_args_": [{"_target_": "evil.Evil"}, "touch"]},
        "builtins.print": {
            "_args_": ["x"],
            "file": {"_target_": "builtins.open", "file": mark, "mode": "w"},
        },
        "io.open": {"file": mark, "mode": "w"},
        "io.FileIO": {"file": mark, "mode": "w"},
        "os.system": {"command": f"touch {mark}"},
        "os.popen": {"cmd": f"touch {mark}"},
        "os.mkdir": {"path": mark},
        "os.makedirs": {"name": mark},
        "os.symlink": {"src": bad, "dst": mark},
        "os.link": {"src": bad, "dst": mark},
        "os.mkfifo": {"path": mark},
        "os.execv": {"_args_": ["/bin/touch", ["touch", mark]]},
        "os.putenv": {"_args_": ["BISCUITS_ALLOW", "evil.touch"]},
        "posix.system": {"command": f"touch {mark}"},
        "subprocess.run": {"args": ["touch", mark]},
        "subprocess.Popen": {"args": ["touch", mark]},
        "subprocess.check_output": {"args": ["touch", mark]},
        "subprocess.getoutput": {"cmd": f"touch {mark}"},
        "pathlib.Path.touch": {"self": sandbox.path()},
        "pathlib.Path.write_text": {"self": sandbox.path(), "data": "x"},
        "pathlib.Path.mkdir": {"self": sandbox.path()},
        "pathlib.Path.unlink": {"self": sandbox.path()},
        "shutil.copy": {"src": bad, "dst": mark},
        "shutil.copyfile": {"src": bad, "dst": mark},
        "shutil.copytree": {"src": "hub", "dst": mark},
        "shutil.make_archive": {"base_name": mark, "format": "zip", "root_dir": "hub"},
        "shutil.rmtree": {"path": "evil"},
        "tempfile.mkdtemp": {"prefix": "mark", "dir": str(sandbox.folder)},
        "pickle.load": {"file": {"_target_": "builtins.open", "file": bad, "mode": "rb"}},
        "pickle.loads": {"_args_": ["x"]},
        "_pickle.loads": {"_args_": ["x"]},
        "cloudpickle.load": {"file": {"_target_": "builtins.open", "file": bad, "mode": "rb"}},
        "marshal.loads": {"_args_": ["x"]},
        "shelve.open": {"filename": mark},
        "dbm.open": {"file": mark, "flag": "c"},
        "sqlite3.connect": {"database": mark},
        "joblib.load": {"filename": "bad.joblib"},
        "joblib.dump": {"value": 1, "filename": mark},
        "pandas.read_pickle": {"filepath_or_buffer": bad},
        "pandas.eval": {"expr": "1"},
        "numpy.load": {"file": bad, "allow_pickle": True},
        "numpy.save": {"file": mark, "arr": [1]},
        "numpy.savetxt": {"fname": mark, "X": [1]},
        "torch.load": {"f": "bad.pt", "weights_only": False},
        "torch.save": {"obj": 1, "f": mark},
        "torch.jit.load": {"f": "bad.pt"},
        "torch.hub.load": {"repo_or_dir": "hub", "model": "touch", "source": "local"},
        "torch.hub.load_state_dict_from_url": {"url": "http://127.0.0.1:9/x"},
        "torch.hub.download_url_to_file": {"url": "http://127.0.0.1:9/x", "dst": mark},
        "torch.utils.cpp_extension.load": {"name": "x", "sources": [bad]},
        "torch.ops.load_library": {"path": bad},
        "torch.multiprocessing.spawn": {"fn": "evil.touch"},
        "torchvision.models.get_model": {"name": "resnet18", "weights": "DEFAULT"},
        "torchvision.datasets.utils.download_url": {"url": "http://127.0.0.1:9/x", "root": "."},
        "timm.create_model": {"model_name": "resnet18", "checkpoint_path": "bad.pt"},
        "timm.models.load_checkpoint": {"model": 1, "checkpoint_path": "bad.pt"},
        "urllib.request.urlopen": {"url": "http://127.0.0.1:9/x"},
        "urllib.request.urlretrieve": {"url": f"file://{bad}", "filename": mark},
        "socket.create_connection": {"address": ["127.0.0.1", 9]},
        "http.server.test": {"port": 0},
        "multiprocessing.Process": {"target": "evil.touch"},
        "threading.Timer": {"interval": 0, "function": "evil.touch"},
        "importlib.import_module": {"name": "evil"},
        "importlib.reload": {"module": "evil"},
        "runpy.run_path": {"path_name": "evil/__init__.py"},
        "runpy.run_module": {"mod_name": "evil"},
        "code.interact": {"local": {}},
        "ctypes.CDLL": {"name": bad},
        "logging.FileHandler": {"filename": mark},
        "logging.config.dictConfig": {"config": {"version": 1}},
        "logging.config.fileConfig": {"fname": bad},
        "functools.partial": {"_args_": ["evil.touch"]},
        "functools.reduce": {"_args_": ["evil.touch", [1, 2]]},
        "operator.methodcaller": {"_args_": ["touch"]},
        "operator.attrgetter": {"_args_": ["touch"]},
        "hydra.utils.instantiate": {"config": {"_target_": "evil.touch"}},
        "hydra.utils.call": {"config": {"_target_": "evil.touch"}},
        "hydra.utils.get_method": {"path": "evil.touch"},
        "hydra.utils.get_class": {"path": "evil.Evil"},
        "hydra.utils.get_object": {"path": "evil.touch"},
        "hydra.experimental.callbacks.PickleJobInfoCallback": {},
        "hydra.main": {"config_path": "."},
        "omegaconf.OmegaConf.load": {"file_": bad},
        "omegaconf.OmegaConf.register_new_resolver": {"name": "x", "resolver": "evil.touch"},
        "omegaconf.OmegaConf.save": {"config": {}, "f": mark},
        "submitit.AutoExecutor": {"folder": mark},
        "submitit.helpers.CommandFunction": {"command": ["touch", mark]},
        "yaml.unsafe_load": {"stream": "x"},
        "webbrowser.open": {"url": "http://127.0.0.1:9/x"},
        "sys.exit": {"_args_": [0]},
        "gc.collect": {},
        "runner.models.load_weights": {"model": 1, "file": "bad.pt"},
        "runner.store.files.write_text": {"path": mark, "text": "x"},
        "runner.run.status.clear": {"folder": "hub"},
        "runner.build.build": {"settings": 1},
        "runner.data.cache.default_folder": {},
        "runner.models.os.system": {"command": f"touch {mark}"},
        "runner.data.npz.__globals__": {},
        "torch.optim.sgd.os.system": {"command": f"touch {mark}"},
        "torch.optim.Optimizer.register_optimizer_step_pre_hook": {},
        "tricks.Chain": {},
        "tricks.trick.os.mkdir": {"path": mark},
        "evil.touch": {},
        "evil.Evil": {},
        "evil.sub.touch": {},
    }
    return [{"_target_": target, **arguments} for target, arguments in plain.items()]


LONG = "x" * 10_000_000
CONTROLS = "\x00\x1b[2J\x1b]0;title\x07\r\n\u202e\u2066\ud800\x9b31m"
MARKUP = "<script>alert(1)</script>"
ODD = {
    "null": None,
    "a list": [[1], "a"],
    "a mapping": {"a": {"b": 1}},
    "nothing": "",
    "negative": -1,
    "no": False,
    "huge": 10**400,
    "of thousands of digits": 10**4200,
    "as large as can be": 1.7e308,
    "infinite": float("inf"),
    "no number": float("nan"),
    "controls": CONTROLS,
    "markup": MARKUP,
    "long": LONG,
    "deep": json.loads("[" * 300 + "]" * 300),
}
"""Values that no file of a run holds."""

RAW = {
    "empty": b"",
    "spaces": b"   \n",
    "zeros": bytes(5000),
    "deep lists": b"[" * 100_000,
    "deep mappings": b'{"a":' * 100_000,
    "deep but whole": b'{"a":' * 900 + b"1" + b"}" * 900,
    "not UTF-8": b'{"format": 1, "status": "\xff\xfe"}',
    "a newer format": b'{"format": 2}',
    "a much newer format": b'{"format": ' + b"9" * 4000 + b"}",
    "no format": b'{"format": null}',
    "a list": b"[1, 2]",
    "a number too long": b'{"format": 1, "epochs": ' + b"9" * 100_000 + b"}",
    "a hexadecimal": b"format: 0x" + b"f" * 100_000 + b"\n",
    "a tag": b"format: !!python/object/apply:os.system ['touch MARK']\n",
    "an alias bomb": b"a: &a [1,1,1,1,1,1,1,1,1]\n"
    + b"".join(
        b"%c: &%c [%s]\n" % (c, c, b",".join([b"*%c" % (c - 1)] * 9)) for c in range(98, 112)
    ),
    "a merge": b"<<: {format: 1}\n? [1, 2]\n: 3\n",
    "base 60": b"format: 1" + b":1" * 200_000 + b"\n",
    "two documents": b"format: 1\n--- \nformat: 1\n",
    "a date": b"format: 2026-01-01\n",
}
"""Bytes that no file of a run consists of."""

STRINGS = (
    MARKUP,
    "</script><script>alert(1)</script>",
    "</style><script>alert(1)</script>",
    "</title><img src=x onerror=alert(1)>",
    "</text></svg><script>alert(1)</script>",
    "<svg/onload=alert(1)>",
    "<img src=x onerror=alert(1)>",
    "<iframe src=javascript:alert(1)>",
    "<a href=javascript:alert(1)>x</a>",
    "<foreignObject><body onload=alert(1)>",
    "<!--",
    "-->",
    "]]>",
    "<![CDATA[",
    "<?xml version='1.0'?>",
    "&lt;script&gt;",
    "&#60;b&#62;",
    "'\"><b>",
    '" onmouseover="alert(1)',
    "' onmouseover='alert(1)",
    "{{ 7 * 7 }}{% raw %}{# x #}",
    "$\\frac{1}{2}$ $x",
    "\\input{/etc/passwd}",
    "url(https://evil.example/x)",
    "#fe0101 var(--ink)",
    "![x](https://evil.example/x.png)",
    "[x](javascript:alert(1))",
    "https://evil.example www.evil.example @everyone #1",
    "a|b``c~~d~~ **e** _f_ \\",
    "# heading",
    "- item",
    "1. item",
    "```\n# out\n```",
    "line\nbreak\r\n\ttab",
    "\x1b[31mred\x1b[0m",
    "\x1b]8;;https://evil.example\x07link\x1b]8;;\x07",
    "\x1b[2J\x1b[H",
    "\x9b31m\x90\x9d",
    "\rover\x08\x08written",
    "\u202egnp.exe\u2066\u200f",
    "zero\u200bwidth\ufeff\u00ad\u2028\u2029",
    "nul\x00 del\x7f bell\x07",
    "surrogate\udfff\ud800",
    "nothing\ufffe\U0010ffff",
    "العربية עברית ไทย हिन्दी 日本語 👩‍👩‍👧",
    "x" * 5000,
    "_hidden",
    "=cmd|'/c calc'!A1",
    "[bold red]rich[/] :smile:",
)
"""Texts that a page, a terminal, or Markdown would obey."""
