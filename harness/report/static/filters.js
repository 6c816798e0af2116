// Which task and which methods are shown, in tables, plots and bars alike.
(function filters() {
  const toolbar = document.querySelector(".toolbar");
  if (!toolbar) return;
  const tasks = [...toolbar.querySelectorAll("button[data-task]")];
  const boxes = [...toolbar.querySelectorAll("input[data-method]")];
  const search = document.getElementById("search");
  const sections = [...document.querySelectorAll("section.comparison")];

  function showTask(button) {
    for (const each of tasks) each.setAttribute("aria-pressed", String(each === button));
    for (const section of sections) {
      section.hidden = !button.hasAttribute("data-all") && section.dataset.task !== button.dataset.task;
    }
    figures.filter(filter());
  }

  function filter() {
    const off = new Set(boxes.filter((box) => !box.checked).map((box) => box.dataset.method));
    const words = search.value.trim().toLowerCase();
    return (item) => !off.has(item.method) && item.label.toLowerCase().includes(words);
  }

  function showMethods() {
    const isShown = filter();
    const items = [...document.querySelectorAll("[data-label]")];
    for (const item of items) item.hidden = !isShown(item.dataset);
    const rows = items.filter((item) => item.tagName === "TR");
    document.getElementById("shown").textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length} rows shown`;
    figures.filter(isShown);
  }

  function reveal() {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    const section = target && target.closest("section.comparison");
    if (section && section.hidden) {
      showTask(tasks.find((button) => button.dataset.task === section.dataset.task));
      target.scrollIntoView();
    }
  }

  for (const button of tasks) button.addEventListener("click", () => showTask(button));
  for (const box of boxes) box.addEventListener("change", showMethods);
  search.addEventListener("input", showMethods);
  addEventListener("hashchange", reveal);
  toolbar.hidden = false;
  showTask(tasks[0]);
  reveal();
})();
