// Learning curves: the smoothed loss of each run by step; on the page of a single run the loss as it was too, faint.
const curves = (function curves() {
  const { HEIGHT, MARGIN, plain, logTicks, axis, layout } = figures;
  const DASHES = ["solid", "dash", "dot", "dashdot", "longdash"];
  const MARKERS = 7;
  // Where the largest loss is so many times the smallest, a linear axis would flatten the end.
  const LOG_FROM = 20;

  function steps(curve) {
    return curve.smooth.map((_, index) => Math.min(1 + index * curve.every, curve.steps));
  }

  function smooth(line) {
    const curve = page.curves[line.run];
    const x = steps(curve);
    return {
      type: "scatter", mode: "lines+markers", x, y: curve.smooth, showlegend: false,
      line: { color: colour(line.look), width: 2, dash: DASHES[line.dash % DASHES.length] },
      marker: { color: colour(line.look), symbol: line.symbol, size: 8, opacity: 1, maxdisplayed: MARKERS, line: { width: line.symbol.endsWith("open") ? 1.5 : 0 } },
      hoverinfo: "text",
      hovertext: curve.smooth.map((loss, index) => `${plain(line.label)}<br>step ${x[index].toLocaleString("en")} of ${curve.steps.toLocaleString("en")}<br>loss ${loss}`),
    };
  }

  function raw(line) {
    const curve = page.curves[line.run];
    return {
      type: "scatter", mode: "lines", x: steps(curve), y: curve.raw, showlegend: false, hoverinfo: "skip", opacity: 0.35,
      line: { color: colour(line.look), width: 1 },
    };
  }

  // The whole chart's ranges, so that filtering does not move curves.
  function ranges(lines, withRaw) {
    const found = lines.map((line) => page.curves[line.run]);
    const losses = found.flatMap((curve) => (withRaw ? [...curve.smooth, ...curve.raw] : curve.smooth));
    const [low, high] = losses.reduce(([a, b], loss) => [Math.min(a, loss), Math.max(b, loss)], [Infinity, -Infinity]);
    const log = low > 0 && high >= LOG_FROM * low;
    const ends = log ? [Math.log10(low), Math.log10(high)] : [low, high];
    const pad = 0.06 * (ends[1] - ends[0] || Math.abs(ends[1]) || 1);
    const most = Math.max(...found.map((curve) => curve.steps));
    return { log, x: [1 - 0.02 * most, most * 1.02], y: [ends[0] - pad, ends[1] + pad] };
  }

  function figure(lines, withRaw) {
    const { log, x, y } = ranges(lines, withRaw);
    return (isShown) => {
      const shown = lines.filter(isShown);
      return {
        traces: [...(withRaw ? shown.map(raw) : []), ...shown.map(smooth)],
        layout: layout(axis("Step", x, { tickformat: "," }),
          axis("Training loss", y, log ? logTicks(y, HEIGHT - MARGIN.t - MARGIN.b) : {})),
      };
    };
  }

  for (const place of document.querySelectorAll(".plot[data-learning]")) {
    figures.add(place, figure(page.learning[place.dataset.learning], false));
  }

  // The chart of one run: filters of the tables do not hide it.
  function ofRun(learning) {
    const place = element("div", { class: "plot", role: "img", "aria-label": `Training loss by step. ${learning.summary}` });
    const draw = figure([learning.line], true);
    figures.add(place, () => draw(() => true));
    return place;
  }
  return { ofRun };
})();
