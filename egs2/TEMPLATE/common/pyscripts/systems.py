#!/usr/bin/env python3
"""Read a list of systems from standard input; write each as a line of columns, separated by tabs.

The list is YAML. A system has a name, and one of

    train: CONFIG      train it
    dry: CONFIG        no training: the model as the options build it
    float: SYSTEM      no training: the weights of SYSTEM, which was trained with a quantizer, in float
    round: SYSTEM      no training: the weights of SYSTEM, rounded as the options say
    calibrate: SYSTEM  no training: the weights of SYSTEM, rounded as the options say by calibrate_weights, on the
                       training set; of a system that was trained with quantization, without options
    pack: SYSTEM       no training: SYSTEM, which was trained with quantization, at --eval_bits
    plan: SYSTEM       no training, no model: plan files of allocate_bits for SYSTEM, in its directory

and may have

    from: SYSTEM       of train: begin with its weights, not with new ones
    teacher: SYSTEM    of train: imitate it
    after: SYSTEM      of round and pack: the plans that --eval_bits names one of
    options: ...       of all but float

So the float model, its rounding and its RAND fine-tuning are

    float: {train: conf/train.yaml}
    round: {round: float, options: --quantizer absmax}
    rand: {train: conf/train.yaml, from: float, options: --quantizer rand --max_epoch 5}

What is quantized is packed, and decoded from its packed file. Systems named NAME.1, NAME.2 ... are runs of one system
(other seeds); they share a line of the table of results. Options with , [ ] { } stand on a line of their own, or in
quotes.

A list of lines, NAME MODE CONFIG INIT [options ...], is taken, too: INIT is the SYSTEM, or that of "from"; CONFIG is
the configuration, or the system of "after"; - is none; the mode "teach" is a training from INIT with INIT as teacher.
"""

import re
import sys

import yaml

MODES = ("train", "dry", "float", "round", "calibrate", "pack", "plan")
#: What else a mode may have.
FURTHER = {mode: {"options"} for mode in MODES}
FURTHER.update(train={"options", "from", "teacher"}, float=set())
FURTHER.update({mode: {"options", "after"} for mode in ("round", "pack")})
KEYS = (*MODES, "from", "teacher", "after", "options")


class ListError(ValueError):
    """A list that means nothing; the message says which system, and the fix."""


def read_yaml(text: str) -> list:
    """The name and the fields of each system.

    Raises:
        ListError: it is no YAML, or not of systems
    """
    try:
        systems = yaml.compose(text)
    except yaml.YAMLError as e:
        reason = " ".join(str(e).split())
        raise ListError(f"it is no YAML ({reason}). Fix: give options with , [ ] {{ }} a line of their own") from e
    if not isinstance(systems, yaml.MappingNode):
        raise ListError("it is no YAML of systems. Fix: NAME: {train: CONFIG}")
    return [(name.value, read_fields(name.value, fields)) for name, fields in systems.value]


def read_fields(name: str, fields: yaml.Node) -> dict:
    """The fields of a system.

    Raises:
        ListError: they are no texts with names
    """
    if not isinstance(fields, yaml.MappingNode):
        raise ListError(f"system {name}: it says not what it is. Fix: {name}: {{train: CONFIG}}")
    for key, value in fields.value:
        if not isinstance(value, yaml.ScalarNode):
            raise ListError(f"system {name}: {key.value} is no text. Fix: put it in quotes")
    return {key.value: value.value for key, value in fields.value}


def read_line(line: str) -> tuple:
    """The name and the fields of a system in the form NAME MODE CONFIG INIT [options ...].

    Raises:
        ListError: a column is missing
    """
    columns = line.split(maxsplit=4)
    if len(columns) < 4:
        raise ListError(f"system {columns[0]}: a line is NAME MODE CONFIG INIT [options ...]. Fix: write - for none")
    name, mode, config, init, *options = columns
    if mode == "teach":
        if init == "-":
            raise ListError(f"system {name}: who is to teach it? Fix: give the name of a system as its INIT")
        return name, {"train": config, "from": init, "teacher": init, "options": "".join(options)}
    if mode in ("train", "dry"):
        return name, {mode: config, "from": init, "options": "".join(options)}
    # options of "float" never had a meaning
    return name, {mode: init, "after": config, "options": "" if mode == "float" else "".join(options)}


def columns(name: str, fields: dict) -> dict:
    """A system as it is written.

    Raises:
        ListError: it is none
    """
    if re.search(r"[\s/]", name) or not name:
        raise ListError(f"system '{name}': a name has no spaces and no /. Fix: it is a directory's")
    unknown = [key for key in fields if key not in KEYS]
    modes = [mode for mode in MODES if mode in fields]
    if unknown or len(modes) != 1:
        said = ", ".join(unknown or modes) or "none"
        raise ListError(f"system {name}: one of {', '.join(MODES)} is wanted, not {said}")
    (mode,) = modes
    fields = {key: value for key, value in fields.items() if key == mode or value not in ("", "-")}
    for key in fields.keys() - FURTHER[mode] - {mode}:
        raise ListError(f"system {name}: '{key}' does not go with '{mode}'. Fix: leave it out")
    of_config = mode in ("train", "dry")
    if not of_config and fields[mode] in ("", "-"):
        raise ListError(f"system {name}: {mode} which system? Fix: give the name of one")
    return {
        "name": name,
        "mode": mode,
        "config": fields[mode] or "-" if of_config else "-",
        "init": fields.get("from", "-") if of_config else fields[mode],
        "teacher": fields.get("teacher", "-"),
        "after": fields.get("after", "-"),
        "options": re.sub(r"\s", " ", fields.get("options", "")).strip(),
    }


def read_systems(text: str) -> list:
    """The systems of a list in either form.

    Raises:
        ListError: it is none, or two systems do not go together
    """
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    if not lines:
        raise ListError("it is empty. Fix: NAME: {train: CONFIG}")
    in_yaml = lines[0].split()[0].endswith(":")
    systems = [columns(*system) for system in (read_yaml(text) if in_yaml else map(read_line, lines))]
    modes = {system["name"]: system["mode"] for system in systems}
    for number, system in enumerate(systems):
        name = system["name"]
        if name in (other["name"] for other in systems[:number]):
            raise ListError(f"system {name}: it is there twice. Fix: give one of them another name")
        for origin in (system["init"], system["teacher"]):
            if system["mode"] == "train" and modes.get(origin) == "dry":
                raise ListError(
                    f"system {name}: {origin} has no weights of a training. "
                    "Fix: begin with a system that is trained, or with none"
                )
    return systems


def main():
    try:
        systems = read_systems(sys.stdin.read())
    except ListError as e:
        sys.exit(f"--systems: {e}")
    for system in systems:
        print(*system.values(), sep="\t")


if __name__ == "__main__":
    main()
