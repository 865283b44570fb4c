"""Drawing of a scene with Pillow."""

import math

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from scripts.demo_world.scene import COLORS, SIZE, Scene, Thing

SCALE = 2  # a picture is drawn larger and then reduced, for smooth edges


def draw(scene: Scene, rng: np.random.Generator) -> Image.Image:
    """Draw a scene: an RGB picture of SIZE × SIZE pixels. `rng` is used for noise and background only."""
    side = SIZE * SCALE
    canvas = Image.fromarray(_background(scene, side, rng))
    for thing in scene.things:
        corner = round((thing.x - thing.radius) * SCALE), round((thing.y - thing.radius) * SCALE)
        patch = round(2 * thing.radius * SCALE) + 1
        mask = Image.new("L", (patch, patch))
        _outline(ImageDraw.Draw(mask), thing.shape, thing.radius * SCALE)
        canvas.paste(Image.fromarray(_paint(thing, patch)), corner, mask)
    small = canvas.resize((SIZE, SIZE), Image.Resampling.BOX).filter(ImageFilter.GaussianBlur(0.4))
    noisy = np.asarray(small, np.float32) + rng.normal(0, 4, (SIZE, SIZE, 1))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def _background(scene: Scene, side: int, rng: np.random.Generator) -> np.ndarray:
    ramp = np.linspace(-1, 1, side, dtype=np.float32)
    shade: np.ndarray = np.zeros((side, side), np.float32)
    if scene.background == "gradient":
        angle = rng.uniform(0, 2 * math.pi)
        shade = 30 * (math.cos(angle) * ramp[None] + math.sin(angle) * ramp[:, None])
    elif scene.background == "noise":
        coarse = Image.fromarray(rng.uniform(0, 255, (24, 24)).astype(np.uint8))
        shade = (np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC), np.float32) - 128) / 5
    elif scene.background == "checks":
        cell = (np.arange(side) // (24 * SCALE)) % 2
        shade = 14.0 * ((cell[None] + cell[:, None]) % 2)
    return (np.array(scene.tint, np.float32) + shade[..., None]).clip(0, 255).astype(np.uint8)


def _paint(thing: Thing, side: int) -> np.ndarray:
    """A patch of the object's colour, with its texture in a lighter or darker shade."""
    color = np.array(COLORS[thing.color], np.float32)
    mark_color = color * 0.2 if color.mean() > 100 else color + 150  # a strong contrast: small figures have few marks
    y, x = np.mgrid[:side, :side].astype(np.float32) / SCALE
    if thing.texture == "striped":
        mark = ((x + y) % 8) < 3
    elif thing.texture == "dotted":
        mark = (((x % 7) - 3.5) ** 2 + ((y % 7) - 3.5) ** 2) < 4
    else:
        return np.broadcast_to(color.astype(np.uint8), (side, side, 3)).copy()
    return np.where(mark[..., None], mark_color, color).clip(0, 255).astype(np.uint8)


def _outline(pen: ImageDraw.ImageDraw, shape: str, r: float) -> None:
    """The shape, white on black, filling a box from 0 to 2r."""
    x = y = r
    box = (x - r, y - r, x + r, y + r)
    if shape == "circle":
        pen.ellipse(box, fill=255)
    elif shape == "ring":
        pen.ellipse(box, fill=255)
        pen.ellipse((x - 0.5 * r, y - 0.5 * r, x + 0.5 * r, y + 0.5 * r), fill=0)
    elif shape == "square":
        pen.rectangle(box, fill=255)
    elif shape == "triangle":
        pen.polygon([(x, y - r), (x + r, y + r), (x - r, y + r)], fill=255)
    elif shape == "cross":
        pen.rectangle((x - r, y - 0.34 * r, x + r, y + 0.34 * r), fill=255)
        pen.rectangle((x - 0.34 * r, y - r, x + 0.34 * r, y + r), fill=255)
    else:
        points = [(k * math.pi / 5 - math.pi / 2, r if k % 2 == 0 else 0.42 * r) for k in range(10)]
        pen.polygon([(x + q * math.cos(a), y + q * math.sin(a)) for a, q in points], fill=255)
