"""What a caption must look like: the JSON schema sent to the model, and the check of its answer."""

from __future__ import annotations

import json
import re
from typing import Any

MAX_TEXT_CHARS = 200
MAX_OBJECTS = 20

SCHEMA: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["task", "scene", "objects", "skill"],
    "properties": {
        "task": {"type": "string", "minLength": 1, "maxLength": MAX_TEXT_CHARS},
        "scene": {"type": "string", "minLength": 1, "maxLength": MAX_TEXT_CHARS},
        "objects": {
            "type": "array",
            "maxItems": MAX_OBJECTS,
            "items": {"type": "string", "minLength": 1, "maxLength": MAX_TEXT_CHARS},
        },
        "skill": {"type": "string", "minLength": 1, "maxLength": MAX_TEXT_CHARS},
    },
}

PROMPT = """These pictures are taken in order from one short video of a person or robot at work. \
Describe it with a JSON object of exactly four keys:
"task": what is being done, as a short phrase with a verb, for instance "fold a towel";
"scene": the kind of place in one to three words, for instance "kitchen";
"objects": the things that are handled, each as a short noun, at most 20, [] when there are none;
"skill": the main movement in one verb, for instance "pour".
Use lower case. Answer with the JSON object alone."""

_FENCE = re.compile(r"\A```(?:json)?\s*\n(.*?)\n?```\Z", re.DOTALL)
_THOUGHT = re.compile(r"\A\s*<think>.*?</think>", re.DOTALL)


def read_labels(text: str) -> dict[str, Any]:
    """The labels in a model's answer: lower case, single spaces, each object once.

    A reasoning model's thoughts and a code fence around the object are taken off; nothing else is
    forgiven.

    Raises:
        ValueError: Says what is wrong, with the path of the key.
    """
    bare = _THOUGHT.sub("", text).strip()
    fenced = _FENCE.match(bare)
    try:
        found = json.loads(fenced.group(1) if fenced else bare)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON: {bare[:80]!r}") from error
    check(found, SCHEMA, "the answer")
    objects = (_plain(name, f"objects[{index}]") for index, name in enumerate(found["objects"]))
    return {
        "task": _plain(found["task"], "task"),
        "scene": _plain(found["scene"], "scene"),
        "objects": list(dict.fromkeys(objects)),
        "skill": _plain(found["skill"], "skill"),
    }


def check(value: Any, schema: dict[str, Any], where: str) -> None:
    """Check a value against the part of JSON Schema that `SCHEMA` uses.

    Raises:
        ValueError: Names the first thing that is wrong.
    """
    kind = {"object": dict, "array": list, "string": str}[schema["type"]]
    if not isinstance(value, kind):
        raise ValueError(f"{where} is {str(value)[:80]!r}, must be {schema['type']}")
    if isinstance(value, dict):
        for key in schema["required"]:
            if key not in value:
                raise ValueError(f"{where} lacks {key!r}")
        for key, inner in value.items():
            if key not in schema["properties"]:
                raise ValueError(f"{where} has the unknown key {key[:80]!r}")
            check(inner, schema["properties"][key], key)
        return
    if isinstance(value, list):
        if len(value) > schema["maxItems"]:
            raise ValueError(f"{where} has {len(value)} entries, at most {schema['maxItems']}")
        for index, inner in enumerate(value):
            check(inner, schema["items"], f"{where}[{index}]")
        return
    if not schema["minLength"] <= len(value) <= schema["maxLength"]:
        raise ValueError(f"{where} has {len(value)} characters, must have 1 to {MAX_TEXT_CHARS}")


def _plain(text: str, where: str) -> str:
    plain = " ".join(text.lower().split()).strip(" .")
    if not plain or not plain.isprintable():
        raise ValueError(f"{where} is {text[:80]!r}, which is no label")
    return plain
