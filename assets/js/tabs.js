// Tabs inside a page. Arrow keys switch tabs; only the open tab is reachable with the Tab key.
// createTabs(page, "view", "#hs-ev-", open) connects [data-view] to panels #hs-ev-<name> and calls open(name).
function createTabs(page, key, panels, open) {
  const tabs = [...page.querySelectorAll(`[data-${key}]`)];
  const nameOf = (tab) => tab.dataset[key];
  tabs.forEach((tab, index) => {
    tab.addEventListener("click", () => open(nameOf(tab)));
    tab.addEventListener("keydown", (event) => {
      const way = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!way || hasModifier(event)) return;
      const next = tabs[(index + way + tabs.length) % tabs.length];
      next.focus();
      open(nameOf(next));
      event.preventDefault();
    });
  });
  return {
    // Name of the open tab; undefined before the first.
    open: () => tabs.find((tab) => tab.getAttribute("aria-selected") === "true")?.dataset[key],
    show(name) {
      for (const tab of tabs) {
        const isOpen = nameOf(tab) === name;
        tab.setAttribute("aria-selected", isOpen);
        tab.tabIndex = isOpen ? 0 : -1;
        page.querySelector(panels + nameOf(tab)).hidden = !isOpen;
      }
    },
  };
}
