// Dark or light: the reader's choice, else what the system prefers. Other parts redraw on the event "themechange".
const page = JSON.parse(document.getElementById("data").textContent);

function element(name, attributes, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) {
    if (value !== null) made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

(function theme() {
  const root = document.documentElement;
  const button = document.getElementById("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  let chosen = null;
  try {
    chosen = localStorage.getItem("vltune-theme");
  } catch {
    // Some browsers give files no storage; the choice then lasts as long as the page.
  }
  const isDark = () => (chosen ? chosen === "dark" : system.matches);
  function apply() {
    root.dataset.theme = isDark() ? "dark" : "light";
    button.textContent = isDark() ? "Light mode" : "Dark mode";
    document.dispatchEvent(new Event("themechange"));
  }
  button.addEventListener("click", () => {
    chosen = isDark() ? "light" : "dark";
    try {
      localStorage.setItem("vltune-theme", chosen);
    } catch {
      // As above.
    }
    apply();
  });
  system.addEventListener("change", apply);
  button.hidden = false;
  apply();
})();
