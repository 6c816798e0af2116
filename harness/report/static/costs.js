// FLOPs by length of text: for each method a solid line with a picture and a dashed one without.
(function costs() {
  const { HEIGHT, MARGIN, plain, logTicks, axis, layout } = figures;

  function trace(line) {
    const hue = colour(line.look);
    return {
      type: "scatter", mode: "lines+markers", x: line.x, y: line.y, showlegend: false,
      line: { color: hue, width: 2, dash: line.dash },
      marker: { color: hue, symbol: line.symbol, size: 8, opacity: 1, line: { width: line.symbol.endsWith("open") ? 1.5 : 0 } },
      hoverinfo: "text", hovertext: line.hover.map((lines) => lines.map(plain).join("<br>")),
    };
  }

  // Below, a logarithmic axis would make much of little, and have fewer than two figures to show.
  const LOG_FROM = 5;
  const ROOM = 45;

  function upwards(values, unit) {
    const [low, high] = [Math.min(...values), Math.max(...values)];
    if (high < LOG_FROM * low) return axis(unit, [0, high * 1.08], { tickformat: ",~r" });
    const span = range(values);
    return axis(unit, span, logTicks(span, HEIGHT - MARGIN.t - MARGIN.b));
  }

  function range(values) {
    const [low, high] = [Math.log10(Math.min(...values)), Math.log10(Math.max(...values))];
    const pad = 0.06 * (high - low) || 0.2;
    return [low - pad, high + pad];
  }

  // The lengths themselves, as far as there is room for them.
  function lengths(xs, span, width) {
    const place = (x) => Math.log10(x) / (span[1] - span[0]) * width;
    const shown = [];
    for (const x of [...new Set(xs)].sort((a, b) => a - b)) {
      if (!shown.length || place(x) - place(shown.at(-1)) >= ROOM) shown.push(x);
    }
    return { type: "log", tickmode: "array", tickvals: shown, ticktext: shown.map((x) => x.toLocaleString("en")) };
  }

  function build({ lines, unit }) {
    const xs = lines.flatMap((line) => line.x);
    const x = range(xs);
    return (isShown, width) => ({
      traces: lines.map(trace),
      layout: layout(axis("Text (tokens)", x, lengths(xs, x, width - MARGIN.l - MARGIN.r)), upwards(lines.flatMap((line) => line.y), unit)),
    });
  }

  for (const place of document.querySelectorAll(".plot[data-index]")) {
    figures.add(place, build(page.plots[Number(place.dataset.index)]));
  }
})();
