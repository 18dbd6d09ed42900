#!/usr/bin/env python3
"""Draws lines with error bars as SVG: plot.py [--bars] [--small] OUT.svg TITLE X Y < `series TAB x TAB y` lines, one per trial.

Nothing but the standard library is needed. Points are means, bars one standard deviation up and down. With --bars the x
are names, and each has a column for each series. With --small the writing is larger beside the drawing, for a page of print.
"""
import html
import math
import statistics
import sys

W, H = 720, 430
LEFT, RIGHT, TOP, BOTTOM = 80, 190, 50, 60
COLOURS = ["#0b6fa4", "#c2410c", "#15803d", "#7e22ce", "#a16207", "#be123c", "#334155"]


def nice(top):
    """The step of about five ticks up to `top`."""
    raw = top / 5 or 1
    power = 10 ** math.floor(math.log10(raw))
    return next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw)


def label(value):
    return f"{value:,.10g}"


def read(number):
    """The trials of each series at each x, in the order in which they came."""
    points = {}
    for line in sys.stdin:
        series, x, y = line.rstrip("\n").split("\t")
        points.setdefault(series, {}).setdefault(number(x), []).append(float(y))
    if not points:
        sys.exit("plot.py: no data")
    return points


def frame(title, x_name, y_name):
    return [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {W} {H}" font-family="sans-serif" font-size="12">',
        f'<rect width="{W}" height="{H}" fill="white"/>',
        f'<text x="{LEFT}" y="26" font-size="15" font-weight="bold">{html.escape(title)}</text>',
        f'<text x="{(LEFT + W - RIGHT) / 2}" y="{H - 16}" text-anchor="middle">{html.escape(x_name)}</text>',
        f'<text transform="translate(20 {(TOP + H - BOTTOM) / 2}) rotate(-90)" text-anchor="middle">{html.escape(y_name)}</text>',
    ]


def y_axis(svg, y_high, y_step, py):
    y = 0.0
    while y <= y_high * 1.0001:
        svg.append(f'<path d="M{LEFT} {py(y):.1f}H{W - RIGHT}" stroke="#e2e8f0"/>')
        svg.append(f'<text x="{LEFT - 8}" y="{py(y) + 4:.1f}" text-anchor="end">{label(y)}</text>')
        y += y_step


def save(svg, out):
    svg.append("</svg>")
    with open(out, "w") as file:
        file.write("\n".join(svg) + "\n")


def columns(out, title, x_name, y_name):
    """A group of columns for each x, in it one for each series."""
    points = read(str)
    names = list(dict.fromkeys(x for by_x in points.values() for x in by_x))
    stats = {(s, x): (statistics.mean(v), statistics.stdev(v) if len(v) > 1 else 0.0) for s, by_x in points.items() for x, v in by_x.items()}
    y_high = max(m + d for m, d in stats.values()) or 1
    y_step = nice(y_high)
    y_high = math.ceil(y_high / y_step) * y_step
    py = lambda y: H - BOTTOM - y / y_high * (H - TOP - BOTTOM)
    svg = frame(title, x_name, y_name)
    y_axis(svg, y_high, y_step, py)
    group = (W - LEFT - RIGHT) / len(names)
    width = group * 0.84 / len(points)
    for n, name in enumerate(names):
        svg.append(f'<text x="{LEFT + (n + 0.5) * group:.1f}" y="{H - BOTTOM + 20}" text-anchor="middle">{html.escape(name)}</text>')
        for i, series in enumerate(points):
            if (series, name) not in stats:
                continue
            mean, deviation = stats[series, name]
            x = LEFT + n * group + group * 0.08 + i * width
            middle, low, high = x + width / 2, py(max(0.0, mean - deviation)), py(mean + deviation)
            svg.append(f'<rect x="{x:.1f}" y="{py(mean):.1f}" width="{width * 0.92:.1f}" height="{H - BOTTOM - py(mean):.1f}" fill="{COLOURS[i % len(COLOURS)]}"/>')
            svg.append(f'<path d="M{middle:.1f} {low:.1f}V{high:.1f}" stroke="black"/>')
    svg.append(f'<path d="M{LEFT} {TOP}V{H - BOTTOM}H{W - RIGHT}" fill="none" stroke="#334155"/>')
    for i, series in enumerate(points):
        at = TOP + 10 + 20 * i
        svg.append(f'<rect x="{W - RIGHT + 16}" y="{at - 6}" width="20" height="12" fill="{COLOURS[i % len(COLOURS)]}"/>')
        svg.append(f'<text x="{W - RIGHT + 42}" y="{at + 4}">{html.escape(series)}</text>')
    save(svg, out)


def lines(out, title, x_name, y_name):
    points = read(float)
    xs = [x for by_x in points.values() for x in by_x]
    stats = {
        s: [(x, statistics.mean(v), statistics.stdev(v) if len(v) > 1 else 0.0) for x, v in sorted(by_x.items())]
        for s, by_x in points.items()
    }
    x_low, x_high = min(xs + [0]), max(xs) or 1
    y_high = max(m + d for line in stats.values() for _, m, d in line) or 1
    x_step, y_step = nice(x_high - x_low), nice(y_high)
    y_high = math.ceil(y_high / y_step) * y_step
    px = lambda x: LEFT + (x - x_low) / (x_high - x_low) * (W - LEFT - RIGHT)
    py = lambda y: H - BOTTOM - y / y_high * (H - TOP - BOTTOM)
    svg = frame(title, x_name, y_name)
    y_axis(svg, y_high, y_step, py)
    x = math.ceil(x_low / x_step) * x_step
    while x <= x_high * 1.0001:
        svg.append(f'<text x="{px(x):.1f}" y="{H - BOTTOM + 20}" text-anchor="middle">{label(x)}</text>')
        x += x_step
    svg.append(f'<path d="M{LEFT} {TOP}V{H - BOTTOM}H{W - RIGHT}" fill="none" stroke="#334155"/>')
    for i, (series, line) in enumerate(stats.items()):
        colour = COLOURS[i % len(COLOURS)]
        path = " ".join(f"{'ML'[n > 0]}{px(x):.1f} {py(m):.1f}" for n, (x, m, _) in enumerate(line))
        svg.append(f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        # A curve of many points needs no marks.
        for x, mean, deviation in line if len(line) <= 40 else []:
            low, high = py(max(0.0, mean - deviation)), py(mean + deviation)
            svg.append(f'<path d="M{px(x):.1f} {low:.1f}V{high:.1f}" stroke="{colour}"/>')
            svg.append(f'<circle cx="{px(x):.1f}" cy="{py(mean):.1f}" r="3" fill="{colour}"/>')
        at = TOP + 10 + 20 * i
        svg.append(f'<path d="M{W - RIGHT + 16} {at}h20" stroke="{colour}" stroke-width="2"/>')
        svg.append(f'<text x="{W - RIGHT + 42}" y="{at + 4}">{html.escape(series)}</text>')
    save(svg, out)


def main():
    global W, H, LEFT, RIGHT, TOP, BOTTOM
    words = [a for a in sys.argv[1:] if a not in ("--bars", "--small")]
    if "--small" in sys.argv:
        W, H, LEFT, RIGHT, TOP, BOTTOM = 430, 240, 58, 128, 36, 54
    (columns if "--bars" in sys.argv else lines)(*words[:4])


main()
