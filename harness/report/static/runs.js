// The page of a run: a dialog, opened by the fragment #run-ID so that it can be linked to.
(function runs() {
  const dialog = document.getElementById("run");

  function learning(run) {
    const title = element("h3", {}, "Learning curve");
    if (!run.learning) return [title, element("p", { class: "empty" }, `No learning curve: ${run.no_learning}.`)];
    const caption = element("figcaption", { class: "quiet" }, run.learning.summary);
    return [title, element("figure", {}, curves.ofRun(run.learning), caption)];
  }

  function fill(id, run) {
    for (const place of dialog.querySelectorAll(".plot")) figures.remove(place);
    const close = element("button", { type: "button", class: "button", "aria-label": "Close" }, "Close");
    close.addEventListener("click", () => dialog.close());
    dialog.replaceChildren(
      element("div", { class: "dialog-top" }, element("h2", { id: "run-title" }, run.title), close),
      element("p", { class: "quiet" }, `Run ${id}`),
      element("h3", {}, "Reproduce"),
    );
    if (run.command) {
      const said = `${run.sources} The command may have made other runs too.`;
      dialog.append(
        element("pre", { tabindex: "0", class: "command", "aria-label": "Command" }, run.command),
        element("p", { class: "quiet" }, said.trim()),
      );
    } else {
      dialog.append(element("p", { class: "empty" }, "The record holds no command."));
    }
    run.parts.forEach(([title, rows], index) => {
      const list = element("dl", { class: "pairs" });
      for (const [name, value] of rows) {
        list.append(element("div", {}, element("dt", {}, name), element("dd", {}, value)));
      }
      dialog.append(element("h3", {}, title), list);
      if (index === 0) dialog.append(...learning(run));
    });
    if (run.traceback) {
      dialog.append(element("h3", {}, "Traceback"), element("pre", { tabindex: "0" }, run.traceback));
    }
  }

  function follow() {
    const id = location.hash.startsWith("#run-") ? location.hash.slice(5) : "";
    if (Object.hasOwn(page.runs, id)) {
      fill(id, page.runs[id]);
      if (!dialog.open) dialog.showModal();
      dialog.scrollTop = 0;
    } else if (dialog.open) {
      dialog.close();
    }
  }

  dialog.addEventListener("close", () => {
    if (location.hash.startsWith("#run-")) history.replaceState(null, "", location.pathname + location.search);
  });
  dialog.addEventListener("click", (event) => {
    // Only the backdrop is the dialog itself and outside its box.
    const box = dialog.getBoundingClientRect();
    const inside = event.clientX >= box.left && event.clientX <= box.right && event.clientY >= box.top && event.clientY <= box.bottom;
    if (event.target === dialog && !inside) dialog.close();
  });
  addEventListener("hashchange", follow);
  follow();
})();
