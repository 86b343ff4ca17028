"""Colours that tell classes apart on a map, the same for one number of classes wherever they are drawn."""

from colorsys import hsv_to_rgb

Colour = tuple[int, int, int]
"""Red, green and blue, 0 to 255."""

# The first eight are Okabe and Ito's colours, which people with colour blindness tell apart; black comes last of them.
_FIRST: tuple[Colour, ...] = (
    (0, 158, 115),
    (230, 159, 0),
    (86, 180, 233),
    (213, 94, 0),
    (240, 228, 66),
    (0, 114, 178),
    (204, 121, 167),
    (30, 30, 30),
)
_TURN = 0.618_034  # golden section: neighbouring numbers get hues far from each other
_SATURATION, _BRIGHTNESS = (0.55, 0.85), (0.95, 0.75, 0.55)


def class_colours(number: int) -> list[Colour]:
    """Return a colour for each class: a fixed list of eight, then hues around the circle."""
    colours = list(_FIRST[:number])
    for place in range(number - len(colours)):
        saturation, brightness = _SATURATION[place % 2], _BRIGHTNESS[place % 3]
        red, green, blue = hsv_to_rgb(place * _TURN % 1, saturation, brightness)
        colours.append((round(255 * red), round(255 * green), round(255 * blue)))
    return colours
