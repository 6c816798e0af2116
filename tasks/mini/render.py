"""Draws a scene as a small picture: sky and ground, landmarks at the edges, a grid of things, weather over it all."""

from __future__ import annotations

from random import Random

from PIL import Image, ImageChops, ImageDraw

from .world import Scene

SIZE = 112
"""Side of a picture in pixels."""

RGB = tuple[int, int, int]

_COLOURS: dict[str, RGB] = {
    "red": (220, 40, 40),
    "blue": (40, 80, 225),
    "green": (40, 175, 60),
    "yellow": (245, 215, 40),
    "purple": (160, 50, 190),
    "white": (248, 248, 248),
}
_GROUNDS: dict[str, RGB] = {
    "beach": (238, 218, 165),
    "forest": (80, 110, 60),
    "city": (135, 135, 140),
    "desert": (215, 150, 80),
    "farm": (150, 110, 70),
}
_SKIES: dict[str, RGB] = {
    "sun": (130, 200, 250),
    "rain": (110, 120, 140),
    "snow": (190, 200, 215),
    "fog": (205, 205, 205),
}
_HORIZON = 40


def render(scene: Scene, seed: int) -> Image.Image:
    """Draw `scene` as an RGB picture; `seed` chooses jitter, shades and places, and never the content."""
    rng = Random(f"{scene}|{seed}")
    image = Image.new("RGB", (SIZE, SIZE), _jitter(rng, _SKIES[scene.weather]))
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, _HORIZON, SIZE, SIZE), fill=_jitter(rng, _GROUNDS[scene.place]))
    _draw_place(draw, scene.place, rng)
    if scene.weather == "sun":
        _draw_sun(draw, rng)
    _draw_landmark(draw, scene.left, rng.randint(1, 4), rng)
    _draw_landmark(draw, scene.right, rng.randint(SIZE - 25, SIZE - 22), rng)
    _draw_things(image, scene, rng)
    return _draw_weather(image, scene.weather, rng)


def _jitter(rng: Random, colour: RGB, by: int = 10) -> RGB:
    red, green, blue = (max(0, min(255, part + rng.randint(-by, by))) for part in colour)
    return red, green, blue


def _draw_place(draw: ImageDraw.ImageDraw, place: str, rng: Random) -> None:
    top = _HORIZON
    if place == "beach":
        draw.rectangle((0, top - 12, SIZE, top + 4), fill=_jitter(rng, (30, 110, 190)))
        for x in range(rng.randint(-8, 0), SIZE, 16):
            draw.arc((x, top - 2, x + 12, top + 8), 180, 360, fill=(240, 250, 255), width=2)
    elif place == "forest":
        for x in range(rng.randint(-10, -4), SIZE, 11):
            peak = top - rng.randint(18, 26)
            draw.polygon(((x, top + 3), (x + 7, peak), (x + 14, top + 3)), fill=_jitter(rng, (20, 80, 35)))
    elif place == "city":
        x = rng.randint(-8, 0)
        while x < SIZE:
            width, peak = rng.randint(10, 16), top - rng.randint(14, 30)
            draw.rectangle((x, peak, x + width, top + 2), fill=_jitter(rng, (75, 75, 90)))
            for y in range(peak + 3, top - 2, 6):
                for window in range(x + 3, x + width - 2, 5):
                    draw.rectangle((window, y, window + 1, y + 2), fill=(250, 235, 140))
            x += width + rng.randint(1, 3)
    elif place == "desert":
        for x in range(rng.randint(-30, -10), SIZE, 44):
            draw.ellipse((x, top - 14, x + 56, top + 20), fill=_jitter(rng, (225, 160, 85)))
    else:
        for offset, y in enumerate(range(top + 2, SIZE, 9)):
            draw.line((0, y, SIZE, y + rng.randint(-1, 1)), fill=(95, 65, 40), width=3)
            if offset == 0:
                for x in range(rng.randint(0, 6), SIZE, 9):
                    draw.rectangle((x, top - 9, x + 3, top + 2), fill=(240, 235, 225))
        draw.line((0, top - 5, SIZE, top - 5), fill=(240, 235, 225), width=2)


def _draw_sun(draw: ImageDraw.ImageDraw, rng: Random) -> None:
    x, y, radius = rng.randint(35, 77), rng.randint(11, 15), rng.randint(8, 10)
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=(255, 225, 50), outline=(250, 160, 20), width=2)


def _draw_landmark(draw: ImageDraw.ImageDraw, name: str, x: int, rng: Random) -> None:
    """Draw a landmark 20 pixels wide with its left edge at `x`."""
    y = rng.randint(52, 60)
    if name == "tree":
        draw.rectangle((x + 7, y + 14, x + 12, y + 40), fill=(95, 60, 30))
        draw.ellipse((x, y - 12, x + 20, y + 18), fill=_jitter(rng, (30, 120, 40)), outline=(10, 60, 15))
    elif name == "house":
        draw.rectangle((x, y + 12, x + 20, y + 40), fill=_jitter(rng, (225, 190, 150)), outline=(60, 40, 30))
        draw.polygon(((x - 1, y + 12), (x + 10, y - 2), (x + 21, y + 12)), fill=(150, 50, 35))
        draw.rectangle((x + 7, y + 25, x + 13, y + 40), fill=(80, 50, 30))
    elif name == "tower":
        draw.rectangle((x + 5, y - 14, x + 15, y + 40), fill=_jitter(rng, (165, 165, 175)), outline=(50, 50, 60))
        for step in range(3):
            draw.rectangle((x + 8, y - 6 + 14 * step, x + 12, y + 14 * step), fill=(30, 30, 50))
        draw.rectangle((x + 2, y - 18, x + 18, y - 12), fill=(90, 90, 105))
    else:
        draw.polygon(((x - 1, y + 40), (x + 10, y + 10), (x + 21, y + 40)), fill=_jitter(rng, (240, 130, 30)))
        draw.polygon(((x + 6, y + 40), (x + 10, y + 22), (x + 14, y + 40)), fill=(60, 35, 20))


def _draw_things(image: Image.Image, scene: Scene, rng: Random) -> None:
    cells = rng.sample([(column, row) for column in range(3) for row in range(2)], scene.count)
    odd = rng.randrange(scene.count) if scene.count > 2 else None
    for index, (column, row) in enumerate(cells):
        size = rng.randint(17, 20)
        x = 26 + 20 * column + rng.randint(0, 20 - size) + rng.randint(-1, 1)
        y = 50 + 29 * row + rng.randint(0, 8)
        colour = _jitter(rng, _COLOURS[scene.other if index == odd else scene.colour])
        mask = _shape(scene.kind, size)
        edge = Image.new("RGB", mask.size, (25, 25, 30))
        image.paste(edge, (x, y), mask)
        inner = _shape(scene.kind, size - 4)
        image.paste(_texture(scene.pattern, colour, inner.size[0], rng), (x + 2, y + 2), inner)


def _shape(kind: str, size: int) -> Image.Image:
    mask = Image.new("L", (size, size), 0)
    draw, last, third = ImageDraw.Draw(mask), size - 1, round(size * 0.3)
    if kind == "ball":
        draw.ellipse((0, 0, last, last), fill=255)
    elif kind == "box":
        draw.rectangle((1, 1, last - 1, last - 1), fill=255)
    elif kind == "cone":
        draw.polygon(((0, last), (last / 2, 0), (last, last)), fill=255)
    elif kind == "cross":
        draw.rectangle((third, 0, last - third, last), fill=255)
        draw.rectangle((0, third, last, last - third), fill=255)
    else:
        draw.polygon(_star(size), fill=255)
    return mask


def _star(size: int) -> list[tuple[float, float]]:
    """A five-pointed star: unit points (outer, inner, ...) scaled to `size`."""
    unit = (
        (0.5, 0.0), (0.63, 0.35), (1.0, 0.37), (0.71, 0.6), (0.81, 0.96),
        (0.5, 0.76), (0.19, 0.96), (0.29, 0.6), (0.0, 0.37), (0.37, 0.35),
    )  # fmt: skip
    return [(x * (size - 1), y * (size - 1)) for x, y in unit]


def _texture(pattern: str, colour: RGB, size: int, rng: Random) -> Image.Image:
    tile = Image.new("RGB", (size, size), colour)
    draw, ink, shift = ImageDraw.Draw(tile), (20, 20, 25), rng.randint(0, 2)
    if pattern in ("striped", "checked"):
        for x in range(shift, size, 5):
            draw.line((x, 0, x, size), fill=ink, width=2)
    if pattern == "checked":
        for y in range(shift, size, 5):
            draw.line((0, y, size, y), fill=ink, width=2)
    if pattern == "dotted":
        for x in range(shift, size, 5):
            for y in range(shift, size, 5):
                draw.rectangle((x, y, x + 1, y + 1), fill=ink)
    return tile


def _draw_weather(image: Image.Image, weather: str, rng: Random) -> Image.Image:
    if weather == "fog":
        veil = Image.new("RGB", image.size, (225, 225, 225))
        return Image.blend(image, veil, rng.uniform(0.38, 0.46))
    draw = ImageDraw.Draw(image)
    if weather == "rain":
        image = ImageChops.multiply(image, Image.new("RGB", image.size, (215, 215, 230)))
        draw = ImageDraw.Draw(image)
        for _ in range(60):
            x, y = rng.randint(-4, SIZE), rng.randint(-6, SIZE)
            draw.line((x + 3, y, x, y + 7), fill=(120, 170, 250), width=1)
    elif weather == "snow":
        for _ in range(55):
            x, y = rng.randint(0, SIZE), rng.randint(0, SIZE)
            draw.ellipse((x - 1, y - 1, x + 1, y + 1), fill=(255, 255, 255))
    return image
