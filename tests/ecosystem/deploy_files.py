"""What the manifests, units and workflows under examples/ say, read as their own programs do."""

from __future__ import annotations

import dataclasses
import importlib
import shlex
import sys
import types
import typing
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

EXAMPLES = Path(__file__).parents[2] / "examples"
MANIFESTS = sorted((EXAMPLES / "kubernetes").glob("*.yaml"))
UNITS = sorted((EXAMPLES / "systemd").glob("*.service"))
TIMERS = sorted((EXAMPLES / "systemd").glob("*.timer"))
COMPOSE = EXAMPLES / "docker" / "compose.yaml"
DOCKERFILE = EXAMPLES / "docker" / "Dockerfile"
WORKFLOW = EXAMPLES / "github_actions" / "deploy.yml"

# Where lightkube-models keeps what a manifest names.
_MODULES = {
    "apps/v1": "apps_v1",
    "batch/v1": "batch_v1",
    "policy/v1": "policy_v1",
    "rbac.authorization.k8s.io/v1": "rbac_v1",
    "v1": "core_v1",
}


def documents(path: Path) -> list[dict[str, Any]]:
    """The documents of a YAML file."""
    # Only here, as the runs with other versions of the frameworks collect this without having it.
    from ruamel.yaml import YAML  # noqa: PLC0415

    return [*YAML(typ="safe", pure=True).load_all(path.read_text())]


def pod_spec(document: dict[str, Any]) -> dict[str, Any] | None:
    """The pod that a workload makes, if the document is one."""
    spec = document.get("spec", {})
    if document["kind"] == "CronJob":
        spec = spec["jobTemplate"]["spec"]
    found: dict[str, Any] | None = spec.get("template", {}).get("spec")
    return found


def containers(path: Path) -> Iterator[dict[str, Any]]:
    """All containers of a manifest, also those that come first."""
    for document in documents(path):
        if (pod := pod_spec(document)) is not None:
            yield from pod.get("initContainers", [])
            yield from pod["containers"]


def container(name: str) -> dict[str, Any]:
    """The first container of examples/kubernetes/NAME.yaml."""
    return next(containers(EXAMPLES / "kubernetes" / f"{name}.yaml"))


def setting(unit: Path, key: str) -> str:
    """The value of a key that a unit has once."""
    lines = [line for line in unit.read_text().splitlines() if line.startswith(f"{key}=")]
    (line,) = lines
    return line.partition("=")[2]


def instructions() -> list[tuple[str, str]]:
    """The instructions of the Dockerfile, each a word and the rest; none has a second line."""
    lines = DOCKERFILE.read_text().splitlines()
    made = [line.split(maxsplit=1) for line in lines if line and not line.startswith("#")]
    return [(word, rest) for word, rest in made]


def deploy_step() -> dict[str, Any]:
    """The step of the workflow that deploys."""
    (document,) = documents(WORKFLOW)
    (step,) = (s for s in document["jobs"]["deploy"]["steps"] if "deploy.sh" in s.get("run", ""))
    found: dict[str, Any] = step
    return found


def command_lines() -> dict[str, list[str]]:
    """Every command line of ours in these files, after the word `advlock`."""
    found: dict[str, list[str]] = {}
    for path in MANIFESTS:
        for each in containers(path):
            if each["command"] == ["advlock"]:
                found[f"{path.stem}-{each['name']}"] = each["args"]
    for path in UNITS:
        program, *rest = shlex.split(setting(path, "ExecStart"))
        assert program.endswith("/advlock")
        found[path.stem] = rest
    (compose,) = documents(COMPOSE)
    found["compose"] = compose["services"]["scheduler"]["command"]
    found["workflow"] = shlex.split(deploy_step()["run"].removeprefix("exec advlock "))
    return found


def unknown(document: dict[str, Any]) -> list[str]:
    """What Kubernetes would not know, or misses, in a document."""
    # The models are dataclasses of whatever base there is; the client that has one is not needed.
    schema = types.ModuleType("lightkube.core.schema")
    vars(schema).update(DictMixin=object, dataclass=dataclasses.dataclass, field=dataclasses.field)
    sys.modules.setdefault(schema.__name__, schema)
    module = importlib.import_module(f"lightkube.models.{_MODULES[document['apiVersion']]}")
    return [*_unknown(getattr(module, document["kind"]), document, document["kind"])]


def _unknown(kind: Any, value: Any, where: str) -> Iterator[str]:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Union:
        # Optional[…]; where more than one is left, as in IntOrString, they are plain values.
        kinds = [each for each in arguments if each is not type(None)]
        if len(kinds) == 1:
            yield from _unknown(kinds[0], value, where)
    elif origin is list:
        if not isinstance(value, list):
            yield f"{where} is no list"
            return
        for number, each in enumerate(value):
            yield from _unknown(arguments[0], each, f"{where}[{number}]")
    elif dataclasses.is_dataclass(kind):
        yield from _unknown_fields(kind, value, where)
    elif kind in {bool, int, str} and type(value) is not kind:
        yield f"{where} is no {kind.__name__}"


def _unknown_fields(kind: Any, value: Any, where: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{where} is no mapping"
        return
    hints = typing.get_type_hints(kind)
    fields = {each.metadata.get("json", each.name): each for each in dataclasses.fields(kind)}
    for name, each in fields.items():
        needed = each.default is dataclasses.MISSING
        if needed and each.default_factory is dataclasses.MISSING and name not in value:
            yield f"{where}.{name} is missing"
    for name, inner in value.items():
        if name in fields:
            yield from _unknown(hints[fields[name].name], inner, f"{where}.{name}")
        else:
            yield f"{where}.{name} is unknown"
