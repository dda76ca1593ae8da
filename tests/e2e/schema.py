# SPDX-License-Identifier: Apache-2.0
"""Does a value keep to a JSON Schema? The subset of 2020-12 that src/api/openapi.json is written in.

Stricter than the standard in one thing: an object may only have the members that its schema names,
unless it says additionalProperties. So a handler that answers with more than is described fails.
"""
import re

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$")
TYPES = {
    "object": lambda v: isinstance(v, dict),
    "array": lambda v: isinstance(v, list),
    "string": lambda v: isinstance(v, str),
    "boolean": lambda v: isinstance(v, bool),
    "null": lambda v: v is None,
    "integer": lambda v: isinstance(v, int) and not isinstance(v, bool),
    "number": lambda v: isinstance(v, (int, float)) and not isinstance(v, bool),
}
KNOWN = {"$ref", "type", "enum", "const", "anyOf", "properties", "required", "additionalProperties",
         "items", "minimum", "maximum", "maxLength", "format", "description", "default", "examples"}


def follow(doc, ref):
    """what "#/a/b" leads to"""
    at = doc
    for word in ref.removeprefix("#/").split("/"):
        at = at[word]
    return at


def resolve(doc, value):
    while "$ref" in value:
        value = follow(doc, value["$ref"])
    return value


def mismatches(doc, schema, value, where=""):
    """one text for each thing that is wrong; none when value keeps to the schema"""
    schema = resolve(doc, schema)
    unknown = set(schema) - KNOWN
    assert not unknown, f"{where}: this validator does not know {unknown}"
    if "anyOf" in schema:
        tried = [list(mismatches(doc, s, value, where)) for s in schema["anyOf"]]
        if all(tried):
            yield f"{where}: fits none: " + "; or ".join(t[0] for t in tried)
        return
    types = schema.get("type", [])
    types = [types] if isinstance(types, str) else types
    if types and not any(TYPES[t](value) for t in types):
        yield f"{where}: {value!r:.80} is not of type {'/'.join(types)}"
        return
    if value not in schema.get("enum", [value]):
        yield f"{where}: {value!r:.80} is none of {schema['enum']}"
    if "const" in schema and value != schema["const"]:
        yield f"{where}: {value!r:.80} is not {schema['const']!r}"
    if isinstance(value, str):
        yield from of_text(schema, value, where)
    elif isinstance(value, dict):
        yield from of_object(doc, schema, value, where)
    elif isinstance(value, list) and "items" in schema:
        for i, item in enumerate(value):
            yield from mismatches(doc, schema["items"], item, f"{where}[{i}]")
    elif TYPES["number"](value):
        if not schema.get("minimum", value) <= value <= schema.get("maximum", value):
            yield f"{where}: {value} is out of range"


def of_text(schema, value, where):
    if schema.get("format") == "date-time" and not TIME.match(value):
        yield f"{where}: {value!r:.80} is not a time"
    if len(value) > schema.get("maxLength", len(value)):
        yield f"{where}: it is longer than {schema['maxLength']}"


def of_object(doc, schema, value, where):
    properties = schema.get("properties", {})
    more = schema.get("additionalProperties", False)
    for name in schema.get("required", []):
        if name not in value:
            yield f"{where}: there is no {name}"
    for name, member in value.items():
        if name in properties:
            yield from mismatches(doc, properties[name], member, f"{where}.{name}")
        elif more is False:
            yield f"{where}.{name}: the description does not know it"
        elif more is not True:
            yield from mismatches(doc, more, member, f"{where}.{name}")
