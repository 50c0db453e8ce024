// Runs once when the page has loaded: the colour scheme button and the Ctrl+Enter shortcut.
() => {
  const KEY = "hart-studio-theme";
  const apply = (theme) => document.body.classList.toggle("dark", theme === "dark");
  const saved = localStorage.getItem(KEY);
  if (saved && !new URLSearchParams(location.search).has("__theme")) apply(saved);

  document.addEventListener("click", (event) => {
    if (!event.target.closest?.("#theme-button")) return;
    const theme = document.body.classList.contains("dark") ? "light" : "dark";
    localStorage.setItem(KEY, theme);
    apply(theme);
  });
  // Captured before a text box can turn the key into a new line.
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
    const ask = document.querySelector("#ask-button:not([disabled])");
    if (!ask) return;
    event.preventDefault();
    event.stopPropagation();
    // A focused text box publishes its last characters on blur.
    document.activeElement?.blur?.();
    setTimeout(() => ask.click());
  }, true);
}
