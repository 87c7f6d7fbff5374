"""Small helpers that write MuJoCo XML from Python numbers, so bodies read as lists of shapes."""

from __future__ import annotations

from collections.abc import Sequence

Vector = Sequence[float]
Colour = tuple[float, float, float]


def text_of(value: object) -> str:
    """Formats one attribute: numbers to nine digits, sequences joined by blanks."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, str)):
        return str(value)
    if isinstance(value, float):
        return f"{value:.9g}"
    if isinstance(value, Sequence):
        return " ".join(text_of(float(item)) for item in value)
    raise TypeError(f"cannot write {type(value).__name__} into XML")


def element(tag: str, *children: str, **attributes: object) -> str:
    """Returns `<tag ...>children</tag>`; attributes that are None are left out."""
    words = "".join(
        f' {name}="{text_of(value)}"' for name, value in attributes.items() if value is not None
    )
    inner = "".join(children)
    return f"<{tag}{words}>{inner}</{tag}>" if inner else f"<{tag}{words}/>"


def capsule(start: Vector, end: Vector, radius: float, colour: Colour, **more: object) -> str:
    """A capsule from `start` to `end` (metres, body frame)."""
    return element(
        "geom",
        type="capsule",
        fromto=(*start, *end),
        size=radius,
        rgba=(*colour, 1.0),
        **more,
    )


def cylinder(start: Vector, end: Vector, radius: float, colour: Colour, **more: object) -> str:
    """A cylinder from `start` to `end` (metres, body frame)."""
    return element(
        "geom",
        type="cylinder",
        fromto=(*start, *end),
        size=radius,
        rgba=(*colour, 1.0),
        **more,
    )


def shape(kind: str, position: Vector, size: Vector, colour: Colour, **more: object) -> str:
    """A sphere, ellipsoid or box with half sizes `size` (metres, body frame)."""
    return element("geom", type=kind, pos=position, size=size, rgba=(*colour, 1.0), **more)


def hinge(name: str, axis: Vector, limits: tuple[float, float], **more: object) -> str:
    """A hinge joint; limits in radians."""
    return element("joint", name=name, type="hinge", axis=axis, range=limits, **more)


def motor(joint: str, stiffness: float, limits: tuple[float, float], **more: object) -> str:
    """A position actuator named after its joint, critically damped."""
    return element(
        "position",
        name=joint,
        joint=joint,
        kp=stiffness,
        dampratio=1.0,
        ctrlrange=limits,
        **more,
    )
