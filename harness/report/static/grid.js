// Sorting and choosing columns. Rows sort within their own body, so that baselines stay apart; no value sorts last.
(function grids() {
  function compare(a, b, direction, numeric) {
    if (a === "" || b === "") return a === b ? 0 : a === "" ? 1 : -1;
    return direction * (numeric ? Number(a) - Number(b) : a < b ? -1 : a > b ? 1 : 0);
  }

  function sort(table, header) {
    const index = [...header.parentElement.children].indexOf(header);
    const numeric = !header.classList.contains("name");
    const first = !numeric || header.dataset.goal === "min" ? "ascending" : "descending";
    const other = first === "ascending" ? "descending" : "ascending";
    const order = header.getAttribute("aria-sort") === first ? other : first;
    for (const each of table.querySelectorAll("th[aria-sort]")) each.setAttribute("aria-sort", "none");
    header.setAttribute("aria-sort", order);
    const direction = order === "ascending" ? 1 : -1;
    for (const body of table.tBodies) {
      const rows = [...body.querySelectorAll("tr[data-method]")];
      rows.sort((a, b) => compare(a.cells[index].dataset.sort, b.cells[index].dataset.sort, direction, numeric));
      body.append(...rows);
    }
  }

  for (const table of document.querySelectorAll("table.grid")) {
    table.tHead.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (button) sort(table, button.closest("th"));
    });
  }

  for (const group of document.querySelectorAll(".columns")) {
    const table = group.parentElement.querySelector("table.grid");
    const buttons = [...group.querySelectorAll("button")];
    function choose(button) {
      for (const each of buttons) each.setAttribute("aria-pressed", String(each === button));
      table.dataset.show = button.dataset.columns;
    }
    group.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (button) choose(button);
    });
    group.hidden = false;
    choose(buttons[0]);
  }
})();
