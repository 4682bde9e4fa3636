// Elements, announcements and the theme: shared by the chat page and the desk.

/** Make an element: properties by name, `class` and `aria-*` as attributes, `on*` as listeners; then its children. */
export function element(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "class" || name === "role" || name === "for" || name.includes("-")) node.setAttribute(name, value);
    else node[name] = value;
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

/** The element with an id, which the page has. */
export const byId = (id) => document.getElementById(id);

/** Say a sentence to users of screen readers. */
export function announce(sentence) {
  const place = byId("announcer");
  if (place) place.textContent = sentence;
}

/** Show a problem as a sentence above the conversation, until it is dismissed or replaced. */
export function showProblem(sentence) {
  const place = byId("problem");
  if (!sentence) return place.replaceChildren();
  const dismiss = element("button", { type: "button", class: "plain small", onclick: () => place.replaceChildren() }, "Dismiss");
  place.replaceChildren(element("div", { class: "problem" }, element("span", {}, sentence), dismiss));
}

/** Light and dark: as the system says, or as the user chose in this browser. */
export function setUpTheme(button) {
  const system = matchMedia("(prefers-color-scheme: dark)");
  const chosen = () => localStorage.getItem("omnivit-theme");
  const isDark = () => (chosen() ? chosen() === "dark" : system.matches);
  const show = () => {
    if (chosen()) document.documentElement.dataset.theme = chosen();
    button.textContent = isDark() ? "Light" : "Dark";
    button.setAttribute("aria-pressed", String(isDark()));
    dispatchEvent(new Event("theme"));
  };
  button.addEventListener("click", () => {
    localStorage.setItem("omnivit-theme", isDark() ? "light" : "dark");
    show();
  });
  system.addEventListener("change", show);
  show();
}

/** The value of a colour of style.css, such as "--accent". */
export const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/** Bytes as people read them. */
export function size(bytes) {
  if (bytes < 1000) return `${bytes} bytes`;
  return bytes < 1e6 ? `${(bytes / 1000).toFixed(0)} kB` : `${(bytes / 1e6).toFixed(1)} MB`;
}
