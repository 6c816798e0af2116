// What all charts share: axes, layout, and when to draw: once one comes into view, and again when theme, filter or width change.
const figures = (function figures() {
  const HEIGHT = 300;
  const MARGIN = { l: 52, r: 12, t: 10, b: 46 };
  const builders = new Map();
  const drawn = new Set();
  let isShown = () => true;

  // plotly.js reads some HTML in labels; names are to be seen as they are.
  const plain = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");

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

  function layout(xaxis, yaxis) {
    return {
      height: HEIGHT, margin: MARGIN, dragmode: false, hovermode: "closest", separators: ".,",
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: "system-ui, sans-serif", size: 12, color: colour("quiet") }, xaxis, yaxis,
      hoverlabel: { align: "left", bgcolor: colour("panel"), bordercolor: colour("line"), font: { color: colour("ink"), size: 12 } },
    };
  }

  function draw(place) {
    const { traces, layout } = builders.get(place)(isShown, place.clientWidth);
    Plotly.react(place, traces, layout, { displayModeBar: false });
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

  // `build` makes traces and layout of which items are shown and the width in pixels.
  function add(place, build) {
    builders.set(place, build);
    observer.observe(place);
    widths.observe(place);
  }

  function remove(place) {
    observer.unobserve(place);
    widths.unobserve(place);
    builders.delete(place);
    if (drawn.delete(place)) Plotly.purge(place);
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
  addEventListener("beforeprint", () => [...builders.keys()].filter((place) => place.offsetParent).forEach(draw));
  return {
    HEIGHT, MARGIN, plain, logTicks, axis, layout, add, remove,
    filter(shown) {
      isShown = shown;
      redraw();
    },
  };
})();
