"""Old names in configs, each with its new one; for messages only, an old name does not work."""

from __future__ import annotations

CLASSES = {
    "realgen.judges.Patience": "realgen.remote_calls.RetrySettings",
    "realgen.modules.DiffusionGRPO": "realgen.modules.GRPOModule",
    "realgen.modules.JointGRPO": "realgen.modules.JointGRPOModule",
    "realgen.modules.PromptGRPO": "realgen.modules.GRPOModule",
    "realgen.nano.detector_folders.NanoFolders": "experiments.nano.detector_folders.NanoFolders",
    "realgen.serving.Connection": "realgen.serving.ConnectionSettings",
}
"""Import paths of components."""
KEYS = {"OpenAIJudge.patience": "retry"}
"""Arguments, behind the name of the class."""


def new_class(path: str) -> str | None:
    """Return the new import path of a class, also by its bare name or its module's; None if the old one is not known.

    Example:
        >>> new_class("realgen.modules.PromptGRPO"), new_class("PromptGRPO"), new_class("realgen.modules.GRPOModule")
        ('realgen.modules.GRPOModule', 'realgen.modules.GRPOModule', None)
        >>> new_class("realgen.modules.prompt_grpo.PromptGRPO")
        'realgen.modules.GRPOModule'
    """
    module, _, name = path.rpartition(".")
    for old, new in CLASSES.items():
        package, _, old_name = old.rpartition(".")
        if name == old_name and (not module or f"{module}.".startswith(f"{package}.")):
            return new
    return None
