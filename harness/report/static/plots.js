// Pareto plots.
(function plots() {
  const { HEIGHT, MARGIN, plain, logTicks, axis, layout } = figures;

  function trace(point, position) {
    const hue = colour(point.look);
    const bounded = point.low !== null;
    return {
      type: "scatter", mode: "markers+text", x: [point.x], y: [point.y], cliponaxis: false, showlegend: false,
      text: [plain(point.label)], textposition: position, textfont: { color: colour("ink"), size: 12 },
      marker: { color: hue, symbol: point.symbol, size: 11, opacity: 1, line: { width: point.symbol.endsWith("open") ? 2 : 0 } },
      error_y: {
        type: "data", symmetric: false, visible: bounded, color: hue, thickness: 1, width: 3,
        array: [bounded ? point.high - point.y : 0], arrayminus: [bounded ? point.y - point.low : 0],
      },
      hoverinfo: "text", hovertext: [point.hover.map(plain).join("<br>")],
    };
  }

  function line(points) {
    return {
      type: "scatter", mode: "lines", x: points.map((p) => p.x), y: points.map((p) => p.y), showlegend: false,
      line: { color: colour("front"), width: 1.5, shape: "hv", dash: "dot" }, hoverinfo: "skip",
    };
  }

  // The whole plot's ranges, so that filtering does not move points.
  function ranges(plot) {
    const xs = plot.points.map((p) => p.x);
    const ys = plot.points.flatMap((p) => [p.y, p.low ?? p.y, p.high ?? p.y]);
    const [low, high] = [Math.min(...ys), Math.max(...ys)];
    const pad = 0.08 * (high - low || Math.abs(high) || 1);
    const most = Math.max(...xs) || 1;
    const x = plot.log ? [Math.log10(Math.min(...xs)) - 0.12, Math.log10(most) + 0.12] : [0, most * 1.08];
    return { x, y: [low - pad, high + pad] };
  }

  function pixels(plot, range, width) {
    const area = { left: MARGIN.l, right: width - MARGIN.r, top: MARGIN.t, bottom: HEIGHT - MARGIN.b };
    const share = (value, [low, high]) => (value - low) / (high - low);
    const x = (value) => area.left + share(plot.log ? Math.log10(value) : value, range.x) * (area.right - area.left);
    const y = (value) => area.bottom - share(value, range.y) * (area.bottom - area.top);
    return { area, of: (p) => ({ label: p.label, x: x(p.x), y: y(p.y), low: y(p.low ?? p.y), high: y(p.high ?? p.y) }) };
  }

  function build(plot) {
    const range = ranges(plot);
    return (isShown, width) => {
      const points = plot.points.filter(isShown);
      const { area, of } = pixels(plot, range, width);
      const front = plot.front.map((index) => plot.points[index]).filter(isShown);
      const positions = labels.place(points.map(of), front.map(of), area);
      return {
        traces: [line(front), ...points.map((point, index) => trace(point, positions[index]))],
        layout: layout(axis(plot.x, range.x, plot.log ? logTicks(range.x, width) : { tickformat: ",~r" }), axis(plot.y, range.y, {})),
      };
    };
  }

  for (const place of document.querySelectorAll(".plot[data-index]")) {
    figures.add(place, build(page.plots[place.dataset.section][Number(place.dataset.index)]));
  }
})();
