"""One English sentence per episode, from its body, motion and object."""

from __future__ import annotations

import colorsys

from .bodies import Body
from .motions import Motion
from .scenes import Scene, Thing

VERBS = {
    "reach_left": "reaches to the left",
    "reach_right": "reaches to the right",
    "reach_up": "reaches up",
    "reach_down": "reaches down",
    "reach_forward": "reaches forward",
    "reach_back": "pulls back",
    "rotate_cw": "turns {} clockwise",
    "rotate_ccw": "turns {} counterclockwise",
    "grasp": "grasps {}",
    "release": "lets go of {}",
    "lift": "lifts {}",
    "push": "pushes {} away",
    "drop": "drops {}",
}
HUES = (
    *("red", "orange", "yellow", "green", "green", "green"),
    *("turquoise", "blue", "blue", "purple", "pink", "pink"),
)
SHAPES = {"box": "block", "cylinder": "can", "sphere": "ball", "ellipsoid": "egg"}
PATTERNS = {
    "stripes": "striped ",
    "checker": "checkered ",
    "dots": "dotted ",
    "noise": "marbled ",
}


def caption_of(body: Body, motion: Motion, scene: Scene) -> str:
    """For instance: `A human hand lifts a striped green block.`"""
    verb = VERBS[motion.primitive]
    if motion.primitive.startswith("rotate_") and not motion.is_held:
        verb = verb.replace("turns {}", "turns")
    deed = verb.format(_name(scene.objects[0]))
    return f"{body.noun[0].upper()}{body.noun[1:]} {deed}."


def _name(thing: Thing) -> str:
    """Pattern, colour and shape of an object."""
    words = f"{PATTERNS.get(thing.texture.kind, '')}{_colour(thing)} {SHAPES[thing.shape]}"
    return f"an {words}" if words[0] in "aeiou" else f"a {words}"


def _colour(thing: Thing) -> str:
    red, green, blue = (channel**0.5 for channel in thing.texture.first)
    hue, saturation, value = colorsys.rgb_to_hsv(red, green, blue)
    if saturation < 0.15:
        return "white" if value > 0.7 else "grey"
    return HUES[int(hue * len(HUES) + 0.5) % len(HUES)]
