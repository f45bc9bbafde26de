"""Recall–latency curves as SVG: one panel a bucket, recall across (finer towards 1), mean CPU µs upwards (log)."""
import math
from html import escape

from data import BUCKETS
from measure import frontier, points

WIDTH, HEIGHT, MARGIN = 340, 260, 46
TICKS = (0.8, 0.9, 0.95, 0.98, 0.99, 0.999, 1.0)
# A recall of 1 has no place on an axis of −log(1 − recall): it is drawn here.
LAST = 0.9997
COLOURS = ("#0b5fa5", "#d1495b", "#2e8b57", "#8a5a00", "#6f4aa8", "#444444", "#00889a", "#c2187a")


def across(recall):
    low, high = -math.log10(1 - TICKS[0]), -math.log10(1 - LAST)
    at = (-math.log10(1 - min(max(recall, TICKS[0]), LAST)) - low) / (high - low)
    return MARGIN + at * (WIDTH - MARGIN - 12)


def text(x, y, words, anchor="middle", size=10):
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}">{escape(words)}</text>'


def panel(title, curves):
    """`curves`: {side: [(recall, µs)]}; points below the first tick are left out."""
    shown = {s: [p for p in frontier(c) if p[0] >= TICKS[0]] for s, c in curves.items() if c}
    costs = [cost for c in shown.values() for _, cost in c]
    parts = [text(WIDTH / 2, 16, title, size=12)]
    if not costs:
        return parts
    # Lines at 1 and 3 of each decade.
    steps = [m * 10 ** e for e in range(-2, 7) for m in (1, 3)]
    first = max([i for i, s in enumerate(steps) if s <= min(costs)], default=0)
    last = max(first + 1, min([i for i, s in enumerate(steps) if s >= max(costs)], default=len(steps) - 1))
    low, high = math.log10(steps[first]), math.log10(steps[last])

    def up(cost):
        return HEIGHT - MARGIN - (math.log10(cost) - low) / (high - low) * (HEIGHT - MARGIN - 28)

    for tick in TICKS:
        x = across(tick)
        parts.append(f'<line x1="{x:.1f}" y1="28" x2="{x:.1f}" y2="{HEIGHT - MARGIN}" stroke="#ddd"/>')
        parts.append(text(x, HEIGHT - MARGIN + 13, f"{tick:g}"))
    for cost in steps[first:last + 1]:
        y = up(cost)
        parts.append(f'<line x1="{MARGIN}" y1="{y:.1f}" x2="{WIDTH - 12}" y2="{y:.1f}" stroke="#ddd"/>')
        parts.append(text(MARGIN - 4, y + 3, f"{cost:,g}" if cost < 1e6 else f"{cost:.0e}", "end"))
    parts.append(text(WIDTH / 2, HEIGHT - 16, "recall@10"))
    for (side, curve), colour in zip(curves.items(), COLOURS):
        seen = shown.get(side, [])
        places = [(across(recall), up(cost)) for recall, cost in seen]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.6"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.6" fill="{colour}"/>' for x, y in places]
    return parts


def draw(path, title, sides):
    """Writes the SVG; `sides`: {side: [result of a setting, as measure.over_rounds gives it]}."""
    panels = [panel("all pairs, mean CPU µs", {s: points(r) for s, r in sides.items()})]
    panels += [panel(f"{name}, mean CPU µs", {s: points(r, name) for s, r in sides.items()}) for name in BUCKETS]
    width, height = 3 * WIDTH, 2 * HEIGHT + 30
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif">',
           '<rect width="100%" height="100%" fill="white"/>', text(width / 2, 20, title, size=14)]
    for i, parts in enumerate(panels):
        out += [f'<g transform="translate({i % 3 * WIDTH},{30 + i // 3 * HEIGHT})">', *parts, "</g>"]
    x, y = 2 * WIDTH + MARGIN, 30 + HEIGHT + 40
    for (side, _), colour in zip(sides.items(), COLOURS):
        out.append(f'<circle cx="{x}" cy="{y - 4}" r="4" fill="{colour}"/>{text(x + 10, y, side, "start", 12)}')
        y += 20
    path.write_text("\n".join([*out, "</svg>"]) + "\n")
