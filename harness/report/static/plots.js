// Pareto plots, drawn when they come into view and again when theme, filter or width change.
const plots = (function plots() {
  const HEIGHT = 300;
  const MARGIN = { l: 52, r: 12, t: 10, b: 46 };
  const places = [...document.querySelectorAll(".plot")];
  const drawn = new Set();
  let isShown = () => true;

  // plotly.js reads some HTML in labels; names are to be seen as they are.
  const plain = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");

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

  // 1, 2 and 5 of each power of ten as far as there is room, written out: plotly.js would write the 2 and 5 alone.
  function logTicks([low, high], width) {
    const room = width / 50;
    const digits = (high - low) * 3 <= room ? [1, 2, 5] : [1];
    const step = Math.ceil((high - low) / room);
    const values = [];
    for (let power = Math.floor(low); power <= Math.ceil(high); power += step) {
      for (const digit of digits) values.push(Number(`${digit}e${power}`));
    }
    const inside = values.filter((value) => Math.log10(value) >= low && Math.log10(value) <= high);
    return { type: "log", tickmode: "array", tickvals: inside, ticktext: inside.map((value) => value.toLocaleString("en", { maximumFractionDigits: 9 })) };
  }

  function axis(title, range, extra) {
    return {
      title: { text: plain(title), font: { size: 12 }, standoff: 8 }, gridcolor: colour("grid"), linecolor: colour("line"),
      zeroline: false, fixedrange: true, ticks: "outside", tickcolor: colour("line"), range, nticks: 6, tickangle: 0, ...extra,
    };
  }

  function layout(plot, range, width) {
    return {
      height: HEIGHT, margin: MARGIN, dragmode: false, hovermode: "closest", separators: ".,",
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: "system-ui, sans-serif", size: 12, color: colour("quiet") },
      xaxis: axis(plot.x, range.x, plot.log ? logTicks(range.x, width) : { tickformat: ",~r" }), yaxis: axis(plot.y, range.y, {}),
      hoverlabel: { align: "left", bgcolor: colour("panel"), bordercolor: colour("line"), font: { color: colour("ink"), size: 12 } },
    };
  }

  function draw(place) {
    const plot = page.plots[place.dataset.section][Number(place.dataset.index)];
    const points = plot.points.filter(isShown);
    const range = ranges(plot);
    const { area, of } = pixels(plot, range, place.clientWidth);
    const front = plot.front.map((index) => plot.points[index]).filter(isShown);
    const positions = labels.place(points.map(of), front.map(of), area);
    Plotly.react(place, [line(front), ...points.map((point, index) => trace(point, positions[index]))],
      layout(plot, range, place.clientWidth), { displayModeBar: false });
    drawn.add(place);
  }

  const observer = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (entry.isIntersecting && !drawn.has(entry.target)) draw(entry.target);
    }
  }, { rootMargin: "300px" });
  const widths = new ResizeObserver((entries) => {
    for (const { target } of entries) {
      if (drawn.has(target) && target.clientWidth && target.clientWidth !== target.querySelector("svg").clientWidth) draw(target);
    }
  });
  for (const place of places) {
    observer.observe(place);
    widths.observe(place);
  }

  function redraw() {
    // One out of sight has no size now: it is drawn anew when it is seen.
    for (const place of [...drawn]) {
      if (place.offsetParent) {
        draw(place);
      } else {
        drawn.delete(place);
      }
    }
  }
  document.addEventListener("themechange", redraw);
  addEventListener("beforeprint", () => places.filter((place) => place.offsetParent).forEach(draw));
  return {
    filter(shown) {
      isShown = shown;
      redraw();
    },
  };
})();
