"""What stands in the SVG of a bar chart, measured by its axis."""

from __future__ import annotations

import re
from xml.etree import ElementTree


class Drawing:
    """The shapes of a bar chart, in the units of its axis."""

    def __init__(self, svg: str) -> None:
        self.root = ElementTree.fromstring(svg)
        shapes = [(element.tag.rpartition("}")[2], element) for element in self.root]
        texts = [element for tag, element in shapes if tag == "text"]
        ticks = [element for element in texts if element.get("text-anchor") == "middle"]
        self.ticks = [element.text or "" for element in ticks]
        self.texts = [element.text or "" for element in texts if element not in ticks]
        places = [(float(element.attrib["x"]), number(element.text or "")) for element in (ticks[0], ticks[-1])]
        (self.left, self.first), (self.right, self.last) = places
        self.bars, self.dots, self.whiskers, self.references = [], [], [], []
        for tag, element in shapes:
            if tag != "path":
                continue
            ends = self.ends(element.attrib["d"])
            fill, stroke = element.get("fill"), element.get("stroke")
            if fill in ("var(--fill)", "var(--real)"):
                self.bars.append(ends)
            elif fill in ("var(--dot)", "var(--dot-real)"):
                self.dots.append(round(sum(ends) / 2, 3))
            elif element.get("stroke-dasharray"):
                self.references.append(ends[0])
            elif stroke == "var(--ink)" and ends[0] < ends[1]:
                self.whiskers.append(ends)

    def ends(self, path: str) -> tuple[float, float]:
        """Where a path begins and ends from left to right, by the axis."""
        places = [float(x) for x in re.findall(r"(-?[\d.]+) -?[\d.]+", path)]
        scale = (self.last - self.first) / (self.right - self.left)
        low, high = (round(self.first + (end - self.left) * scale, 3) for end in (min(places), max(places)))
        return low, high


def number(text: str) -> float:
    return float(text.rstrip("%").replace(",", ""))
