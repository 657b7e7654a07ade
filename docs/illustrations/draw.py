"""Draw the shop's sixteen product pictures as small SVG files, into static/img/products/.

    python docs/illustrations/draw.py

The drawings are the shop's own and are dedicated to the public domain (CC0 1.0).
Running the script again writes the same bytes again. All pictures share one hand: a square of 400,
a radial background in the product's own colours, a soft shadow on the floor at about y = 346, strong
plain forms, and one gradient ("sh") laid over a form to make it round.
"""

import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

TARGET = Path(__file__).parent.parent.parent / "static" / "img" / "products"

PAPER = "#fffaf1"
BRASS = "#d99f38"
BRASS_DARK = "#8f5b17"


class Picture(NamedTuple):
    """What makes one picture: the background from its centre to its edge, and the drawing on it."""

    centre: str
    edge: str
    body: str


class BagColours(NamedTuple):
    """A coffee bag's background (centre, edge), its foil and the foil's dark side."""

    centre: str
    edge: str
    foil: str
    dark: str


# The tools every picture uses


def document(picture: Picture) -> str:
    """Return the whole SVG file around a drawing."""
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 400 400"><defs>\n'
        f'<radialGradient id="b" cx=".5" cy=".42" r=".75"><stop stop-color="{picture.centre}"/>'
        f'<stop offset="1" stop-color="{picture.edge}"/></radialGradient>\n'
        '<linearGradient id="sh" x2="1" y2="0"><stop stop-color="#000" stop-opacity=".26"/>'
        '<stop offset=".22" stop-color="#000" stop-opacity="0"/>'
        '<stop offset=".36" stop-color="#fff" stop-opacity=".22"/>'
        '<stop offset=".6" stop-color="#fff" stop-opacity="0"/>'
        '<stop offset="1" stop-color="#000" stop-opacity=".30"/></linearGradient>\n'
        '<filter id="s" x="-30%" y="-60%" width="160%" height="220%"><feGaussianBlur stdDeviation="9"/></filter>'
        "</defs>\n"
        f'<rect width="400" height="400" fill="url(#b)"/>{picture.body}</svg>'
    )


def shadow(cx: int, cy: int, rx: int, ry: int = 13) -> str:
    """The soft shadow a thing throws on the floor."""
    return f'<ellipse cx="{cx}" cy="{cy}" rx="{rx}" ry="{ry}" fill="#000" opacity=".28" filter="url(#s)"/>'


def shaded(d: str, fill: str) -> str:
    """A filled path with the rounding gradient over it."""
    return f'<path d="{d}" fill="{fill}" /><path d="{d}" fill="url(#sh)"/>'


def plain(d: str, fill: str) -> str:
    """A filled path with no shading."""
    return f'<path d="{d}" fill="{fill}"/>'


def shaded_rect(box: str, fill: str) -> str:
    """A rectangle, its place and size given as SVG attributes, with the rounding gradient over it."""
    return f'<rect {box} fill="{fill}"/><rect {box} fill="url(#sh)"/>'


def line(d: str, colour: str, width: float, opacity: float = 1) -> str:
    """An open stroke with round ends."""
    faint = "" if opacity == 1 else f' opacity="{opacity:g}"'
    return f'<path d="{d}" fill="none" stroke="{colour}" stroke-width="{width:g}" stroke-linecap="round"{faint}/>'


def dots(points: Iterable[tuple[float, float]], radius: float, fill: str) -> str:
    """Equal circles at the given points."""
    return "".join(f'<circle cx="{x:g}" cy="{y:g}" r="{radius:g}" fill="{fill}"/>' for x, y in points)


def placed(x: float, y: float, turn: float, body: str) -> str:
    """A drawing moved to a point and turned."""
    return f'<g transform="translate({x:g} {y:g}) rotate({turn:g})">{body}</g>'


# Coffee


def bag(colours: BagColours, art: str) -> Picture:
    """A stand-up coffee bag with a paper label; `art` fills the label's upper part, about 160,150 to 240,240."""
    dark = colours.dark
    fold = "M122 96 H278 L276 66 Q276 60 270 60 H130 Q124 60 124 66Z"
    return Picture(
        colours.centre,
        colours.edge,
        shadow(200, 346, 108)
        + shaded("M122 96 H278 L290 332 Q290 346 276 346 H124 Q110 346 110 332 Z", colours.foil)
        + plain(fold, dark)
        + plain(fold, "url(#sh)")
        + '<path d="M124 78H276" stroke="#fff" stroke-opacity=".25" stroke-width="2" stroke-dasharray="3 4"/>'
        + f'<rect x="146" y="138" width="108" height="150" rx="8" fill="{PAPER}"/>{art}'
        + f'<rect x="166" y="246" width="68" height="6" rx="3" fill="{dark}"/>'
        + f'<rect x="178" y="260" width="44" height="4" rx="2" fill="{dark}" opacity=".45"/>'
        + f'<rect x="184" y="270" width="32" height="4" rx="2" fill="{dark}" opacity=".3"/>'
        + '<circle cx="200" cy="116" r="5" fill="#000" opacity=".25"/>',
    )


def bean(x: int, y: int, turn: int, colour: str) -> str:
    """A roasted coffee bean with its crease."""
    return (
        f'<g transform="translate({x} {y}) rotate({turn})"><ellipse rx="17" ry="24" fill="{colour}"/>'
        f'<path d="M0-22C9-8-9 8 0 22" stroke="{PAPER}" stroke-width="3.5" fill="none" stroke-linecap="round"/></g>'
    )


def bag_haraz() -> Picture:
    """Yemen: a deep green bag, two beans."""
    return bag(
        BagColours("#f7e7cf", "#e8c99b", "#1f5f53", "#123d35"),
        bean(182, 190, -24, "#6b3f22") + bean(218, 206, 22, "#8a5530"),
    )


def bag_guji() -> Picture:
    """Ethiopia: a red bag, the sun rising over hills."""
    return bag(
        BagColours("#fde3dc", "#f3b7a6", "#d8593f", "#8e2f1d"),
        '<circle cx="200" cy="196" r="30" fill="#f3a23c"/>'
        '<path d="M170 214q30-34 60 0v22h-60z" fill="#8e2f1d" opacity=".85"/>'
        '<path d="M170 224q22-22 42-4t18 6v10h-60z" fill="#d8593f"/>',
    )


def bag_sumatra() -> Picture:
    """Indonesia: a night-blue bag, a white-capped mountain."""
    return bag(
        BagColours("#dfe8f5", "#a9c0e0", "#28406f", "#172746"),
        '<path d="M164 232q36-92 72 0z" fill="#28406f"/>'
        '<path d="M186 184q14-22 28 0l-8 6-7-5-6 5z" fill="#fff"/>'
        '<circle cx="226" cy="168" r="10" fill="#f3a23c"/>',
    )


def bag_huila() -> Picture:
    """Colombia: a plum bag, a bird on a coffee twig."""
    return bag(
        BagColours("#fbf4d3", "#e9d785", "#7d2f62", "#4a1838"),
        line("M158 229Q200 216 242 230", "#5a3a22", 4.5)
        + plain("M226 168L248 175 226 182Z", "#e07b2a")
        + plain("M229 176Q236 214 202 222 182 226 156 243 164 204 190 186 196 158 214 158 229 161 229 176Z", "#1d8783")
        + plain("M229 180Q234 212 203 221 216 206 214 190 220 179 229 180Z", "#f3a23c")
        + plain("M190 190Q214 188 208 206 192 222 170 226 174 204 190 190Z", "#0d5653")
        + '<circle cx="216" cy="171" r="4" fill="#fff"/><circle cx="217" cy="171" r="2" fill="#172746"/>'
        + dots(((232, 236), (243, 233)), 6, "#c8372d"),
    )


def coffee_leaf(x: int, y: int, turn: int, colour: str = "#3f7a4a") -> str:
    """A pointed leaf that grows to the right from its stalk."""
    return placed(
        x,
        y,
        turn,
        plain("M0 0Q16-16 40-2 20 14 0 0Z", colour) + line("M4 0Q18-3 32-2", PAPER, 1.8, 0.55),
    )


def bag_khawlani() -> Picture:
    """Saudi Arabia: a golden bag, a branch with ripe cherries."""
    return bag(
        BagColours("#f3efe9", "#c8bcad", "#dfa63a", "#8a5a17"),
        line("M181 238Q189 204 208 172", "#6b4a2a", 4.5)
        + coffee_leaf(207, 174, -44, "#4f8f57")
        + coffee_leaf(203, 184, 10)
        + coffee_leaf(200, 184, 196)
        + coffee_leaf(189, 210, 200, "#4f8f57")
        + coffee_leaf(192, 216, 8, "#4f8f57")
        + dots(((190, 196), (207, 199), (198, 206)), 9, "#c8372d")
        + dots(((177, 230), (193, 233)), 9, "#a9271f")
        + dots(((187, 193), (204, 196), (174, 227)), 2.2, "#fff"),
    )


def bag_antigua() -> Picture:
    """Guatemala: a turquoise bag, a smoking volcano and a flower."""
    petals = "".join(placed(218, 220, turn, '<ellipse cy="-11" rx="7.5" ry="10"/>') for turn in range(0, 360, 72))
    return bag(
        BagColours("#f9e6ef", "#dfa9c6", "#1c93a3", "#0d5560"),
        '<g fill="#c9bfb6"><circle cx="194" cy="166" r="8"/><circle cx="205" cy="158" r="10"/>'
        '<circle cx="220" cy="156" r="7"/></g>'
        + plain("M156 238Q182 212 188 178H206Q214 212 244 238Z", "#9c3f2b")
        + plain("M188 178H206L208 190Q203 200 200 192 196 212 192 196 188 202 186 192Z", "#f3a23c")
        + f'<g fill="#d6327f">{petals}</g><circle cx="218" cy="220" r="6" fill="#f6c445"/>',
    )


# Things to brew and serve with


def cup() -> Picture:
    """A stoneware cup on its saucer, steaming."""
    return Picture(
        "#eaf3ee",
        "#b5d3c5",
        shadow(200, 312, 128) + '<ellipse cx="200" cy="300" rx="130" ry="24" fill="#f8f4ec"/>'
        '<ellipse cx="200" cy="300" rx="130" ry="24" fill="url(#sh)"/>'
        '<ellipse cx="200" cy="294" rx="92" ry="13" fill="#d9d2c4"/>'
        '<path d="M286 186q52-6 46 42t-66 36" fill="none" stroke="#f8f4ec" stroke-width="17" stroke-linecap="round"/>'
        + shaded("M106 172 H294 Q292 292 232 298 H168 Q108 292 106 172Z", "#fffdf8")
        + '<path d="M109 204q91 26 182 0l-2 22q-89 26-177 0z" fill="#1f5f53" opacity=".92"/>'
        '<ellipse cx="200" cy="172" rx="94" ry="22" fill="#fffdf8"/>'
        '<ellipse cx="200" cy="173" rx="84" ry="17" fill="#4a2a17"/>'
        '<path d="M130 170q40-14 76-4" stroke="#a8754a" stroke-width="5" fill="none"'
        ' stroke-linecap="round" opacity=".8"/>'
        '<g fill="none" stroke="#fff" stroke-width="8" stroke-linecap="round" opacity=".6">'
        '<path d="M168 136q-14-20 0-38t0-38"/><path d="M204 130q-14-20 0-38t0-38"/>'
        '<path d="M240 136q-14-20 0-38t0-38"/></g>',
    )


def dallah() -> Picture:
    """The brass pot for Arabic coffee."""
    studs = "".join(
        f'<path d="M{x} {y} l7 11 -7 11 -7-11z" fill="#8f5b17"/>'
        for x, y in ((146, 273), (173, 278), (200, 280), (227, 278), (254, 273))
    )
    return Picture(
        "#fbeecb",
        "#e5bb62",
        shadow(196, 344, 96) + '<path d="M250 150q86-6 74 78-6 48-64 66" fill="none" stroke="#7a4a16" stroke-width="15"'
        ' stroke-linecap="round"/>'
        '<path d="M254 150q76-4 66 74" fill="none" stroke="#fff" stroke-opacity=".25" stroke-width="4"'
        ' stroke-linecap="round"/>'
        '<path d="M160 196q-40-6-62-54-8-16-32-18 4-14 20-16 34-2 46 30 10 26 34 28z" fill="#b97f22"/>'
        '<path d="M160 196q-40-6-62-54-8-16-32-18" fill="none" stroke="#fff" stroke-opacity=".35" stroke-width="3"/>'
        + shaded("M156 150 H244 Q236 196 262 236 Q294 286 252 340 H144 Q102 286 134 236 Q162 196 156 150Z", BRASS)
        + shaded("M152 150 Q158 104 200 96 Q242 104 248 150Z", "#c98b27")
        + '<rect x="146" y="146" width="108" height="12" rx="6" fill="#8f5b17"/>'
        '<path d="M192 98q-8-18 8-40 16 22 8 40z" fill="#b97f22"/><circle cx="200" cy="54" r="9" fill="#8f5b17"/>'
        '<path d="M126 262q74 24 148 0" stroke="#8f5b17" stroke-width="4" fill="none"/>'
        '<path d="M124 292q76 24 152 0" stroke="#8f5b17" stroke-width="4" fill="none"/>' + studs,
    )


def dripper() -> Picture:
    """A pour-over dripper on its glass server."""
    coffee = "M131 282h138l10 42q4 18-18 18H139q-22 0-18-18z"
    return Picture(
        "#f1e8f6",
        "#cdb5dc",
        shadow(200, 346, 92) + '<path d="M142 228h116l22 96q4 22-20 22H140q-24 0-20-22z" fill="#fff" fill-opacity=".55"'
        ' stroke="#fff" stroke-width="4"/>'
        + plain(coffee, "#5b331b")
        + plain(coffee, "url(#sh)")
        + '<ellipse cx="200" cy="282" rx="69" ry="8" fill="#7d4a2a"/>'
        '<path d="M200 226v54" stroke="#5b331b" stroke-width="5" stroke-linecap="round"/>'
        '<path d="M282 120q40-2 36 30t-52 34" fill="none" stroke="#5f3d78" stroke-width="13" stroke-linecap="round"/>'
        + shaded("M100 92 H300 L232 208 H168Z", "#7c539b")
        + '<rect x="134" y="206" width="132" height="20" rx="10" fill="#5f3d78"/>'
        '<ellipse cx="200" cy="92" rx="100" ry="20" fill="#fffaf1"/>'
        '<ellipse cx="200" cy="95" rx="84" ry="13" fill="#4a2a17"/>'
        '<g stroke="#fff" stroke-opacity=".22" stroke-width="4" stroke-linecap="round">'
        '<path d="M138 128l34 66"/><path d="M170 134l16 62"/><path d="M230 134l-16 62"/>'
        '<path d="M262 128l-34 66"/></g>',
    )


def kettle() -> Picture:
    """A steel kettle with a gooseneck."""
    return Picture(
        "#e6eef0",
        "#a6bcc4",
        shadow(204, 336, 118)
        + '<path d="M150 168q10-84 96-74 64 10 62 84" fill="none" stroke="#2b2320" stroke-width="15"'
        ' stroke-linecap="round"/>'
        '<path d="M128 300q-52-10-56-84-2-52-40-64" fill="none" stroke="#37474f" stroke-width="15"'
        ' stroke-linecap="round"/>'
        '<path d="M122 294q-44-12-46-80-2-50-40-62" fill="none" stroke="#fff" stroke-opacity=".25" stroke-width="4"'
        ' stroke-linecap="round"/>'
        + shaded("M146 178 H290 L322 312 Q326 334 302 334 H134 Q110 334 114 312Z", "#455a64")
        + '<ellipse cx="218" cy="178" rx="72" ry="15" fill="#37474f"/><path d="M158 174q60-30 120 0z" fill="#546e7a"/>'
        '<rect x="205" y="140" width="26" height="20" rx="9" fill="#7a4a2a"/>'
        '<path d="M124 300q94 18 188 0" stroke="#fff" stroke-opacity=".18" stroke-width="3" fill="none"/>',
    )


def grinder() -> Picture:
    """A hand grinder: a wooden box with a drawer, a brass hopper full of beans and a crank."""
    heap = (
        (152, 134, 70, "#6b3f22"),
        (176, 126, 30, "#8a5530"),
        (224, 126, -34, "#6b3f22"),
        (248, 134, -72, "#8a5530"),
        (200, 130, 84, "#7a4828"),
    )
    beans = "".join(
        placed(x, y, turn, f'<ellipse rx="13" ry="19" fill="{colour}"/>' + line("M0-16C7-6-7 6 0 16", PAPER, 2.6, 0.8))
        for x, y, turn, colour in heap
    )
    return Picture(
        "#e2f4f8",
        "#95cbdb",
        shadow(200, 346, 116)
        + f'<ellipse cx="200" cy="139" rx="74" ry="17" fill="#5b331b" stroke="{BRASS_DARK}" stroke-width="3"/>'
        + beans
        + shaded("M126 138Q200 168 274 138L242 206H158Z", BRASS)
        + line("M127 138Q200 168 273 138", "#f3cf80", 5)
        + line("M200 142V88", BRASS_DARK, 10)
        + line("M200 90Q256 74 312 92", BRASS_DARK, 12)
        + line("M206 86Q256 72 302 86", "#fff", 3, 0.35)
        + shaded("M300 88Q290 40 312 38 334 40 324 88Z", "#7a4524")
        + '<rect x="298" y="84" width="28" height="10" rx="5" fill="#d99f38"/>'
        f'<circle cx="200" cy="88" r="12" fill="{BRASS}"/><circle cx="197" cy="85" r="4" fill="#fff" opacity=".5"/>'
        + shaded("M124 216H276V334H124Z", "#a9683a")
        + '<g fill="none" stroke="#5b331b" stroke-opacity=".28" stroke-width="3" stroke-linecap="round">'
        '<path d="M136 232q38-8 72 0t54-2"/><path d="M140 246q40 6 66 0t56 2"/></g>'
        + shaded_rect('x="110" y="202" width="180" height="18" rx="7"', "#7a4524")
        + shaded_rect('x="106" y="328" width="188" height="18" rx="7"', "#7a4524")
        + '<rect x="142" y="258" width="116" height="58" rx="7" fill="#5b331b"/>'
        + shaded_rect('x="147" y="263" width="106" height="48" rx="4"', "#b97a47")
        + f'<circle cx="200" cy="289" r="12" fill="{BRASS_DARK}"/><circle cx="200" cy="286" r="11" fill="{BRASS}"/>'
        '<circle cx="197" cy="282" r="4" fill="#fff" opacity=".55"/>',
    )


def finjan_cup(x: int, y: int, band: str) -> str:
    """One small cup without a handle, filled; its foot stands at the given point."""
    diamonds = "".join(
        f'<path d="M{dx} {dy}l6 9-6 9-6-9z"/>' for dx, dy in ((-36, -70), (-18, -65), (0, -63), (18, -65), (36, -70))
    )
    return placed(
        x,
        y,
        0,
        '<ellipse cy="-2" rx="40" ry="9" fill="#000" opacity=".22"/>'
        + shaded("M-58-106Q-56-36-28-6 0 4 28-6 56-36 58-106Z", "#fffdf8")
        + plain("M-57-80Q0-60 57-80L51-54Q0-36-51-54Z", band)
        + f'<g fill="#f3c45a">{diamonds}</g>'
        + line("M-27-14Q0-5 27-14", "#d9a23c", 4)
        + '<ellipse cy="-106" rx="58" ry="14" fill="#fffdf8"/><ellipse cy="-105" rx="51" ry="10.5" fill="#a9702a"/>'
        + line("M-38-107Q-14-114 12-111", "#e0b36a", 3.5, 0.85)
        + '<ellipse cy="-106" rx="58" ry="14" fill="none" stroke="#d9a23c" stroke-width="2.5"/>',
    )


def finjan() -> Picture:
    """Three finjans of Arabic coffee on a round brass tray."""
    return Picture(
        "#fbe0cd",
        "#dc9570",
        shadow(200, 318, 152)
        + shaded("M34 266Q40 324 200 326 360 324 366 266Z", "#b97f22")
        + '<ellipse cx="200" cy="266" rx="166" ry="44" fill="#d99f38"/>'
        '<ellipse cx="200" cy="266" rx="166" ry="44" fill="url(#sh)"/>'
        '<ellipse cx="200" cy="267" rx="150" ry="36" fill="#e9bd62"/>'
        '<ellipse cx="200" cy="267" rx="140" ry="31" fill="none" stroke="#b97f22" stroke-width="3"'
        ' stroke-dasharray="3 8" stroke-linecap="round"/>'
        + finjan_cup(200, 246, "#1f5f53")
        + finjan_cup(118, 288, "#a8322a")
        + finjan_cup(282, 288, "#28406f")
        + line("M182 112q-11-15 0-29t0-29M218 112q-11-15 0-29t0-29", "#fff", 7, 0.6),
    )


# For the pantry


def date(x: int, y: int, turn: int) -> str:
    """One glossy date."""
    return (
        f'<g transform="translate({x} {y}) rotate({turn})"><ellipse rx="27" ry="17" fill="#5a2a12"/>'
        '<ellipse rx="27" ry="17" fill="url(#sh)"/>'
        '<path d="M-16-6q14-9 30-2" stroke="#d48a4c" stroke-width="4" fill="none" stroke-linecap="round"'
        ' opacity=".8"/></g>'
    )


def dates() -> Picture:
    """An open gift box with eight dates."""
    upper = ((112, 222, -8), (170, 220, 6), (229, 222, -4), (288, 221, 9))
    lower = ((112, 274, 7), (170, 276, -6), (229, 274, 5), (288, 276, -7))
    return Picture(
        "#fdf0da",
        "#efc98a",
        shadow(200, 322, 142) + '<path d="M70 178 L104 96 H296 L330 178Z" fill="#0f4a40"/>'
        '<path d="M86 170 L112 108 H288 L314 170Z" fill="#1f6d5d"/>'
        '<path d="M200 116l8 16 18 3-13 12 3 18-16-9-16 9 3-18-13-12 18-3z" fill="#e9bd62"/>'
        + shaded_rect('x="62" y="178" width="276" height="140" rx="14"', "#c9974f")
        + '<rect x="78" y="192" width="244" height="112" rx="8" fill="#8a5a26"/>'
        + "".join(date(*place) for place in upper + lower)
        + '<g fill="none" stroke="#fff" stroke-opacity=".55" stroke-width="2">'
        '<path d="M141 192v112M199 192v112M258 192v112M78 248h244"/></g>',
    )


def pod(x: int, y: int, turn: int) -> str:
    """One cardamom pod."""
    return (
        f'<g transform="translate({x} {y}) rotate({turn})"><path d="M-18 0Q0-15 18 0 0 15-18 0Z" fill="#8fae58"/>'
        '<path d="M-16 0q16-5 32 0" stroke="#5f7d33" stroke-width="2" fill="none"/></g>'
    )


def cardamom() -> Picture:
    """A glass jar of green cardamom pods."""
    chance = random.Random(4)  # noqa: S311  the same scatter each time
    pods = "".join(pod(chance.randint(138, 262), chance.randint(180, 318), chance.randint(0, 180)) for _ in range(60))
    return Picture(
        "#edf4dc",
        "#bcd18d",
        shadow(200, 346, 96) + '<clipPath id="c"><rect x="122" y="166" width="156" height="172" rx="22"/></clipPath>'
        '<rect x="114" y="118" width="172" height="228" rx="30" fill="#fff" fill-opacity=".6"'
        ' stroke="#fff" stroke-width="4"/>'
        f'<g clip-path="url(#c)"><rect x="114" y="160" width="180" height="190" fill="#6f8f40"/>{pods}</g>'
        '<path d="M136 142v176" stroke="#fff" stroke-width="9" stroke-linecap="round" opacity=".55"/>'
        + shaded_rect('x="120" y="78" width="160" height="46" rx="12"', "#b98148")
        + '<rect x="152" y="214" width="96" height="70" rx="8" fill="#fffaf1"/>'
        '<rect x="168" y="236" width="64" height="7" rx="3.5" fill="#5f7d33"/>'
        '<rect x="180" y="252" width="40" height="5" rx="2.5" fill="#5f7d33" opacity=".5"/>',
    )


def threads(count: int, colour: str, width: float, chance: random.Random) -> str:
    """Curved saffron threads of one colour, scattered in the jar."""
    strokes = "".join(
        f"M{chance.randint(112, 280)} {chance.randint(204, 336)}"
        f"q{chance.randint(-16, 16)} {chance.randint(-24, 8)} {chance.randint(-44, 44)} {chance.randint(-20, 20)}"
        for _ in range(count)
    )
    return line(strokes, colour, width)


def saffron() -> Picture:
    """A small corked jar of saffron threads, a crocus on its label."""
    chance = random.Random(7)  # noqa: S311  the same scatter each time
    layers = ((40, "#6f0f0b", 4.5), (50, "#b3211a", 4), (50, "#d23a24", 3.5), (16, "#f08a2c", 3))
    heap = "".join(threads(count, colour, width, chance) for count, colour, width in layers)
    crocus = (
        line("M200 282V256", "#4f8f57", 5)
        + plain("M200 262Q170 250 176 222 192 230 200 262Z", "#8a5cc0")
        + plain("M200 262Q230 250 224 222 208 230 200 262Z", "#8a5cc0")
        + plain("M200 264Q180 240 200 210 220 240 200 264Z", "#6b3fa0")
        + line("M200 236V222M200 238L192 218M200 238L208 218", "#e8502a", 3.5)
    )
    return Picture(
        "#e9e9fb",
        "#aeb1e2",
        shadow(200, 346, 112)
        + '<clipPath id="c"><path d="M116 208Q200 190 284 208V312Q284 338 258 338H142Q116 338 116 312Z"/></clipPath>'
        '<path d="M152 132H248V158Q292 168 292 206V312Q292 346 258 346H142Q108 346 108 312V206Q108 168 152 158Z"'
        ' fill="#fff" fill-opacity=".6" stroke="#fff" stroke-width="4"/>'
        f'<g clip-path="url(#c)"><rect x="108" y="180" width="184" height="166" fill="#8f1710"/>{heap}</g>'
        + line("M124 210V310", "#fff", 9, 0.55)
        + shaded("M142 84Q142 76 150 76H250Q258 76 258 84L250 146Q249 152 242 152H158Q151 152 150 146Z", "#c08a52")
        + dots(((172, 100), (222, 94), (204, 122), (236, 124), (180, 134)), 3, "#8a5a2c")
        + '<rect x="144" y="136" width="112" height="12" rx="6" fill="#fff" opacity=".7"/>'
        f'<rect x="154" y="200" width="92" height="104" rx="8" fill="{PAPER}"/>{crocus}'
        '<rect x="176" y="290" width="48" height="5" rx="2.5" fill="#8c1710"/>',
    )


def honey() -> Picture:
    """A jar of Sidr honey, the wooden dipper dripping above it."""
    ribs = "".join(
        shaded_rect(f'x="{-width / 2:g}" y="{top}" width="{width}" height="12" rx="6"', colour)
        for top, width, colour in (
            (-12, 34, "#b97a47"),
            (2, 50, "#b97a47"),
            (16, 58, "#b97a47"),
            (30, 50, "#eb9d18"),
            (44, 36, "#eb9d18"),
        )
    )
    dipper = placed(
        230,
        80,
        34,
        shaded_rect('x="-7" y="-74" width="14" height="74" rx="7"', "#a9683a")
        + '<rect x="-10" y="-6" width="20" height="56" fill="#7a4524"/>'
        + ribs,
    )
    fill = "M150 178H250V186Q280 196 280 224V312Q280 338 254 338H146Q120 338 120 312V224Q120 196 150 186Z"
    cell = "m0-18l15.6 9v18l-15.6 9-15.6-9v-18z"
    comb = "".join(
        f'<path d="M{x} {y}{cell}" fill="{colour}"/>'
        for x, y, colour in ((182.5, 240, "#f0b73a"), (217.5, 240, "#e09a1f"), (200, 270, "#c47a12"))
    )
    return Picture(
        "#d9efe9",
        "#72b5aa",
        shadow(200, 346, 104)
        + dipper
        + '<path d="M146 166H254V182Q288 190 288 222V314Q288 346 256 346H144Q112 346 112 314V222Q112 190 146 182Z"'
        ' fill="#fff" fill-opacity=".6" stroke="#fff" stroke-width="4"/>'
        + shaded(fill, "#e8960f")
        + '<ellipse cx="200" cy="166" rx="60" ry="14" fill="#fff" fill-opacity=".85"/>'
        '<ellipse cx="200" cy="168" rx="50" ry="9.5" fill="#f3b32e"/>'
        + plain("M188 122Q202 138 212 128 204 142 205 168H195Q196 140 188 122Z", "#eb9d18")
        + '<ellipse cx="200" cy="168" rx="15" ry="4" fill="#ffd36b"/>'
        + line("M132 226V308", "#fff", 9, 0.55)
        + f'<rect x="150" y="214" width="100" height="96" rx="8" fill="{PAPER}"/>{comb}'
        '<rect x="172" y="297" width="56" height="5" rx="2.5" fill="#8f5b17"/>',
    )


PICTURES: dict[str, Callable[[], Picture]] = {
    "bag-haraz": bag_haraz,
    "bag-guji": bag_guji,
    "bag-sumatra": bag_sumatra,
    "bag-huila": bag_huila,
    "bag-khawlani": bag_khawlani,
    "bag-antigua": bag_antigua,
    "dallah": dallah,
    "cup": cup,
    "dripper": dripper,
    "kettle": kettle,
    "grinder": grinder,
    "finjan": finjan,
    "dates": dates,
    "cardamom": cardamom,
    "saffron": saffron,
    "honey": honey,
}


def main() -> None:
    """Write every picture."""
    for name, draw in PICTURES.items():
        (TARGET / f"{name}.svg").write_text(document(draw()), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
