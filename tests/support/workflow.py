"""Runs a Google Workflows file: the steps and expressions that ours uses, and no more.

What is outside stays outside: `http` answers its calls, time is `sleep`'s, and an unknown step,
argument or function is an error. Expressions of Workflows are almost Python's; `${…}` is evaluated
as such, with Workflows' own functions.
"""

from __future__ import annotations

import json
import re
from collections import ChainMap
from collections.abc import Callable, Mapping
from datetime import datetime
from types import SimpleNamespace
from typing import Any

import yaml

EXPRESSION = re.compile(r"\$\{(.*)\}", re.S)
# (method, address, query and body) → the answer's body; it raises WorkflowError for a refusal
Http = Callable[[str, str, Mapping[str, Any]], Any]


class WorkflowError(Exception):
    """What `raise` raised, or a call did: a text or a map."""

    def __init__(self, value: Any) -> None:
        super().__init__(str(value))
        self.value = value


class Map(dict[str, Any]):
    """A map whose members are also attributes; a missing one is an error, as in Workflows."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise WorkflowError(f"KeyError: {name}") from None


class Scope(ChainMap[str, Any]):
    """Variables: one that exists outside a loop is changed there, a new one ends with the loop."""

    def __setitem__(self, name: str, value: Any) -> None:
        next((scope for scope in self.maps if name in scope), self.maps[0])[name] = value


class Returned(Exception):  # noqa: N818 - no error
    """A `return`, on its way out of nested steps."""

    def __init__(self, value: Any) -> None:
        super().__init__()
        self.value = value


def maps(value: Any) -> Any:
    """Return JSON-like data with every map as a Map."""
    if isinstance(value, Mapping):
        return Map({key: maps(each) for key, each in value.items()})
    return [maps(each) for each in value] if isinstance(value, list) else value


def map_get(value: Map, keys: str | list[str]) -> Any:
    for key in [keys] if isinstance(keys, str) else keys:
        if not isinstance(value, Map) or key not in value:
            return None
        value = value[key]
    return value


class Workflow:
    """A workflow with its environment; `run` runs its main."""

    def __init__(
        self,
        text: str,
        environment: Mapping[str, str],
        http: Http,
        sleep: Callable[[float], None],
    ) -> None:
        self._routines: dict[str, Any] = yaml.safe_load(text)
        self._http, self._sleep = http, sleep
        self._functions = {
            "sys": SimpleNamespace(get_env=lambda name: environment[name]),
            "json": SimpleNamespace(decode=lambda text: maps(json.loads(text))),
            "list": SimpleNamespace(concat=lambda values, value: [*values, value]),
            "map": SimpleNamespace(get=map_get),
            "text": SimpleNamespace(match_regex=lambda text, regex: bool(re.search(regex, text))),
            "time": SimpleNamespace(parse=lambda text: datetime.fromisoformat(text).timestamp()),
            "http": SimpleNamespace(default_retry="the default"),
            "default": lambda value, instead: instead if value is None else value,
            "string": str,
            "len": len,
        }

    def run(self) -> Any:
        """Run main; return what it returns, or raise WorkflowError."""
        return self._routine("main", {})

    def _routine(self, name: str, given: Mapping[str, Any]) -> Any:
        routine = self._routines[name]
        assert set(routine.get("params", [])) == given.keys(), name
        try:
            self._steps(routine["steps"], Scope(dict(given)))
        except Returned as end:
            return end.value
        return None

    def _steps(self, steps: list[dict[str, Any]], names: Scope) -> str | None:
        """Run steps in order; return the name of one outside them that is to come next."""
        labels = [next(iter(step)) for step in steps]
        place = 0
        while place < len(steps):
            following = self._step(steps[place][labels[place]], names)
            if following is None:
                place += 1
            elif following in labels:
                place = labels.index(following)
            else:
                return following
        return None

    def _step(self, step: dict[str, Any], names: Scope) -> str | None:
        known = {"assign", "call", "args", "result", "switch", "for", "try", "retry", "except"}
        assert step.keys() <= known | {"steps", "next", "return", "raise", "condition"}, step
        if "return" in step:
            raise Returned(self._value(step["return"], names))
        if "raise" in step:
            raise WorkflowError(self._value(step["raise"], names))
        for assignment in step.get("assign", ()):
            ((name, value),) = assignment.items()
            names[name] = self._value(value, names)
        if "call" in step:
            answer = self._call(step["call"], self._value(step.get("args", {}), names))
            if "result" in step:
                names[step["result"]] = answer
        following = self._block(step, names)
        return following or step.get("next")

    def _block(self, step: dict[str, Any], names: Scope) -> str | None:
        if "switch" in step:
            for case in step["switch"]:
                if self._value(case["condition"], names):
                    return self._step(case, names)
            return None
        if "for" in step:
            loop = step["for"]
            for value in self._value(loop["in"], names):
                self._steps(loop["steps"], names.new_child({loop["value"]: value}))
            return None
        if "try" in step:
            try:
                return self._step(step["try"], names)
            except WorkflowError as error:
                if "except" not in step:
                    raise
                handler = step["except"]
                return self._steps(
                    handler["steps"], names.new_child({handler["as"]: maps(error.value)})
                )
        return self._steps(step["steps"], names) if "steps" in step else None

    def _call(self, name: str, args: Map) -> Any:
        if name == "sys.sleep":
            return self._sleep(args.seconds)
        if name in ("http.get", "http.post"):
            assert args.auth == {"type": "OAuth2"}
            sent = args.get("query") or args.get("body") or Map()
            return Map(body=maps(self._http(name.removeprefix("http."), args.url, sent)))
        return self._routine(name, args)

    def _value(self, value: Any, names: Scope) -> Any:
        if isinstance(value, dict):
            return Map({key: self._value(each, names) for key, each in value.items()})
        if isinstance(value, list):
            return [self._value(each, names) for each in value]
        found = EXPRESSION.fullmatch(value) if isinstance(value, str) else None
        if not found:
            return value
        return eval(found[1], {"__builtins__": {}}, {**self._functions, **names})
