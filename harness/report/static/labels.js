// Where the name of each point of a plot stands: the first place that covers least of the others.
const labels = (function labels() {
  const PLACES = {
    "top center": [-0.5, -1], "middle right": [0, -0.5], "middle left": [-1, -0.5], "bottom center": [-0.5, 0],
    "top right": [0, -1], "top left": [-1, -1], "bottom right": [0, 0], "bottom left": [-1, 0],
  };
  const GAP = 9;
  const HEIGHT = 14;
  const pen = document.createElement("canvas").getContext("2d");
  pen.font = "12px system-ui, sans-serif";

  function box(point, place, text) {
    const [dx, dy] = PLACES[place];
    const width = pen.measureText(text).width;
    const shiftX = dx === 0 ? GAP : dx === -1 ? -GAP : 0;
    const shiftY = dy === -1 ? -GAP : dy === 0 ? GAP : 0;
    const left = point.x + dx * width + shiftX;
    const top = point.y + dy * HEIGHT + shiftY;
    return { left, top, right: left + width, bottom: top + HEIGHT };
  }

  function overlap(a, b) {
    const width = Math.min(a.right, b.right) - Math.max(a.left, b.left);
    const height = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
    return width > 0 && height > 0 ? width * height : 0;
  }

  function cost(own, obstacles, area) {
    const outside = own.left < area.left || own.right > area.right || own.top < area.top || own.bottom > area.bottom;
    return obstacles.reduce((sum, other) => sum + overlap(own, other) * other.weight, outside ? 1e6 : 0);
  }

  // The steps of the front: across to the next point's cost, then up or down to it.
  function steps(front) {
    return front.slice(1).flatMap((to, index) => {
      const from = front[index];
      return [
        { left: from.x, right: to.x, top: from.y - 2, bottom: from.y + 2, weight: 2 },
        { left: to.x - 2, right: to.x + 2, top: Math.min(from.y, to.y), bottom: Math.max(from.y, to.y), weight: 2 },
      ];
    });
  }

  // Points in pixels, with `low` and `high` ends of the interval; returns a plotly text position for each.
  function place(points, front, area) {
    const obstacles = steps(front).concat(points.flatMap((p) => [
      { left: p.x - 6, right: p.x + 6, top: p.y - 6, bottom: p.y + 6, weight: 4 },
      { left: p.x - 2, right: p.x + 2, top: p.high, bottom: p.low, weight: 1 },
    ]));
    return points.map((point) => {
      const found = Object.keys(PLACES).map((name) => {
        const own = box(point, name, point.label);
        return { name, own, cost: cost(own, obstacles, area) };
      });
      const best = found.reduce((a, b) => (b.cost < a.cost ? b : a));
      obstacles.push({ ...best.own, weight: 8 });
      return best.name;
    });
  }
  return { place };
})();
