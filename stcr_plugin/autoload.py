"""The start-up hook: lets an unmodified `llamafactory-cli` find the plugin.

The start-up file autoload/stcr_plugin_autoload.pth waits in every Python process of the environment for an import of
LLaMA-Factory, and then calls `install`; where this package is gone it does nothing. It is all in that one line, because
importing a module would cost each of those processes a millisecond. STCR_AUTOLOAD=0 switches it off.
"""

from __future__ import annotations

import os
import sys

# LLaMA-Factory's module -> the function of ours that is called with it once it is loaded.
HOOKS = {
    "llamafactory.data.template": ("stcr_plugin.frameworks.llamafactory.template", "register"),
    "llamafactory.chat.hf_engine": ("stcr_plugin.frameworks.llamafactory.chat_hook", "pass_token_types"),
    "llamafactory.train.tuner": ("stcr_plugin.frameworks.llamafactory.experiment", "wrap_run_exp"),
    "llamafactory.v1.config.arg_parser": ("stcr_plugin.frameworks.refusals", "refuse_v1"),
}


class _Finder:
    """Finds the modules of HOOKS as the import system would, and adds our call after their execution."""

    def find_spec(self, name, path=None, target=None):  # type: ignore[no-untyped-def]  # typing is not imported here
        if name not in HOOKS:
            return None
        from importlib.machinery import PathFinder

        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_then_hook(module):  # type: ignore[no-untyped-def]
                execute(module)
                from importlib import import_module

                ours, function = HOOKS[name]
                getattr(import_module(ours), function)(module)

            spec.loader.exec_module = execute_then_hook  # type: ignore[method-assign]
        return spec


def install() -> None:
    """Put the finder first on sys.meta_path, once, unless STCR_AUTOLOAD is 0."""
    if os.environ.get("STCR_AUTOLOAD", "1") != "0" and not any(isinstance(f, _Finder) for f in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
