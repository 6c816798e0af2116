// The example browser: two methods to set against each other, a filter, and pages of examples to open.
(function browsers() {
  const PER_PAGE = 12;
  const MARKS = { 1: ["✓", "right"], 0: ["✗", "wrong"] };
  const FILTERS = [
    ["all", "All examples", () => true],
    ["ab", "A right, B wrong", (r, a, b) => r[a] === 1 && r[b] === 0],
    ["ba", "A wrong, B right", (r, a, b) => r[a] === 0 && r[b] === 1],
    ["none", "A and B wrong", (r, a, b) => r[a] === 0 && r[b] === 0],
    ["differ", "Different answers", (r, a, b, t) => t[a] !== t[b]],
  ];

  function verdict(right) {
    if (right === null) return "";
    const [sign, word] = MARKS[right];
    return element("span", { class: `verdict ${word}`, role: "img", "aria-label": word }, sign);
  }

  function select(label, options) {
    const list = element("select", {}, ...options.map(([value, text]) => element("option", { value }, text)));
    return [element("label", {}, element("span", {}, label), list), list];
  }

  function answers(example, methods) {
    const list = element("ul", { class: "answers" });
    methods.forEach((method, index) => {
      list.append(element("li", {}, element("b", {}, method.label), verdict(example.r[index]), element("bdi", {}, example.a[index])));
    });
    return list;
  }

  function summary(example, methods, chosen) {
    const line = element("summary", {}, element("span", { class: "id" }, example.id));
    for (const index of chosen) {
      line.append(element("span", { class: "short" }, element("b", {}, methods[index].label), " ", verdict(example.r[index]), " ", element("bdi", {}, example.a[index])));
    }
    return line;
  }

  function item(example, methods, chosen) {
    const body = element("div", { class: "example-body" });
    if (example.image) body.append(element("img", { src: example.image, alt: `Picture of example ${example.id}` }));
    if (example.prompt) body.append(element("pre", { tabindex: "0" }, example.prompt));
    if (example.truth) body.append(element("p", {}, element("b", {}, "Right answer: "), example.truth));
    body.append(answers(example, methods));
    return element("details", { class: "example" }, summary(example, methods, chosen), body);
  }

  function said(data) {
    const cut = data.examples.length < data.total
      ? ` The ${data.examples.length} of ${data.total} examples on which methods differ most are in this file.` : "";
    const bare = data.examples.some((example) => example.prompt) ? "" :
      " Prompts and pictures are not in this file: the report was made without the data.";
    return `First seed of each method.${cut}${bare}`;
  }

  function browser(place) {
    const data = page.examples[place.dataset.section];
    const names = data.methods.map((method, index) => [String(index), `${method.label} (seed ${method.seed})`]);
    const judged = data.examples.some((example) => example.r.some((right) => right !== null));
    const [labelA, a] = select("A", names);
    const [labelB, b] = select("B", names);
    const [labelFilter, filter] = select("Show", FILTERS.filter(([key]) => judged || key === "all" || key === "differ"));
    b.value = String(Math.min(1, names.length - 1));
    const list = element("div", { class: "list" });
    const count = element("span", { class: "count", role: "status" });
    const back = element("button", { type: "button", class: "button" }, "Previous");
    const next = element("button", { type: "button", class: "button" }, "Next");
    let start = 0;

    function show() {
      const chosen = [Number(a.value), Number(b.value)];
      const keep = FILTERS.find(([key]) => key === filter.value)[2];
      const found = data.examples.filter((example) => keep(example.r, ...chosen, example.a));
      const part = found.slice(start, start + PER_PAGE);
      list.replaceChildren(...part.map((example) => item(example, data.methods, [...new Set(chosen)])));
      count.textContent = found.length ? `${start + 1} to ${start + part.length} of ${found.length}` : "No such examples";
      back.disabled = start === 0;
      next.disabled = start + PER_PAGE >= found.length;
    }
    function go(to) {
      start = to;
      show();
    }
    for (const control of [a, b, filter]) control.addEventListener("change", () => go(0));
    back.addEventListener("click", () => go(Math.max(0, start - PER_PAGE)));
    next.addEventListener("click", () => go(start + PER_PAGE));
    place.append(
      element("p", { class: "quiet" }, said(data)),
      element("div", { class: "controls" }, labelA, labelB, labelFilter),
      list,
      element("div", { class: "controls" }, back, next, count),
    );
    show();
  }

  for (const place of document.querySelectorAll(".examples")) browser(place);
})();
