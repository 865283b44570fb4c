"""Scenes of the demo world: objects with a shape, a colour, a texture, a size and a place."""

from dataclasses import dataclass

import numpy as np

SIZE = 192  # side of a picture in pixels
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
COLORS = {
    "red": (214, 39, 40),
    "green": (44, 150, 44),
    "blue": (38, 90, 210),
    "yellow": (240, 215, 30),
    "purple": (140, 60, 180),
    "orange": (250, 130, 20),
    "white": (245, 245, 245),
    "black": (20, 20, 20),
}
TEXTURES = ("plain", "striped", "dotted")
RADII = {"small": (13, 17), "large": (25, 32)}  # half of a box's side in pixels, smallest and largest


@dataclass(frozen=True, kw_only=True)
class Thing:
    """One object; `x`, `y` (its centre) and `radius` are in pixels."""

    shape: str
    color: str
    texture: str
    size: str
    x: float
    y: float
    radius: float

    @property
    def box(self) -> tuple[float, float, float, float]:
        """The box around the object: x1, y1, x2, y2 in pixels."""
        r = self.radius
        return self.x - r, self.y - r, self.x + r, self.y + r

    def has(self, **attributes: str) -> bool:
        """Whether the object has all of the attributes."""
        return all(getattr(self, name) == value for name, value in attributes.items())


@dataclass(frozen=True)
class Scene:
    """One picture: its objects, from back to front, and its background."""

    things: tuple[Thing, ...]
    background: str  # plain, gradient, noise or checks
    tint: tuple[int, int, int]


def image_name(split: str, image_id: int) -> str:
    """The file name of a picture, in COCO's style."""
    return f"DEMO_{split}_{image_id:012}.png"


BACKGROUNDS = ("plain", "gradient", "noise", "checks")


def make_scene(rng: np.random.Generator) -> Scene:
    """Draw a random scene of 3 to 8 objects. It has few shapes and colours, so that counts and comparisons occur."""
    n = int(rng.integers(3, 9))
    shapes = rng.choice(SHAPES, size=int(rng.integers(2, 5)), replace=False)
    colors = rng.choice(list(COLORS), size=int(rng.integers(2, 6)), replace=False)
    things: list[Thing] = []
    while len(things) < n:
        size = str(rng.choice(list(RADII)))
        radius = float(rng.uniform(*RADII[size]))
        x, y = (float(v) for v in rng.uniform(radius + 2, SIZE - radius - 2, 2))
        if all(_leaves_visible(x, y, radius, other) for other in things):
            shape, color = str(rng.choice(shapes)), str(rng.choice(colors))
            texture = str(rng.choice(TEXTURES, p=(0.5, 0.25, 0.25)))
            things.append(Thing(shape=shape, color=color, texture=texture, size=size, x=x, y=y, radius=radius))
        elif rng.random() < 0.02:  # the picture is too full for another object: start again
            things.clear()
    tint = tuple(int(v) for v in rng.integers(95, 200) + rng.integers(-25, 26, 3))
    return Scene(tuple(things), str(rng.choice(BACKGROUNDS)), tint)  # type: ignore[arg-type]


def _leaves_visible(x: float, y: float, radius: float, other: Thing) -> bool:
    """Whether an object with this centre and radius leaves the other one visible; they may overlap at their edges."""
    return bool(np.hypot(x - other.x, y - other.y) > 0.8 * (radius + other.radius))
