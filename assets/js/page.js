// Runs once when the page has loaded: retries of refused calls, the color scheme button, the tab in the address, the
// Ctrl+Enter shortcut.
() => {
  // Retry component calls while the server is busy. If it still refuses, return its message as the response, because
  // Gradio's client would drop it.
  const CALLS = "/gradio_api/component_server";
  const TRIES = 3;
  const send = window.fetch.bind(window);
  const wait = (seconds) => new Promise((done) => setTimeout(done, 1000 * seconds));
  const isCall = (target) => {
    const address = typeof target === "string" ? target : (target?.url ?? String(target));
    return address.split("?")[0].replace(/\/$/, "").endsWith(CALLS);
  };
  window.fetch = async (target, options) => {
    let response = await send(target, options);
    if (!isCall(target)) return response;
    for (let tries = 1; [429, 503].includes(response.status) && tries < TRIES; tries++) {
      await wait(Math.min(10, Number(response.headers.get("retry-after")) || 2));
      response = await send(target, options);
    }
    if (![413, 429, 503].includes(response.status)) return response;
    const message = await response.json().catch(() => ({}));
    const error = typeof message.detail === "string" ? message.detail : "The server refused the request.";
    return new Response(JSON.stringify({ error }), { status: 200, headers: { "content-type": "application/json" } });
  };

  const KEY = "hart-studio-theme";
  const apply = (theme) => document.body.classList.toggle("dark", theme === "dark");
  // Accessing storage throws in a frame without storage access.
  const stored = (act) => {
    try {
      return act(localStorage);
    } catch {
      return null;
    }
  };
  const saved = stored((storage) => storage.getItem(KEY));
  if (saved && !new URLSearchParams(location.search).has("__theme")) apply(saved);

  document.addEventListener("click", (event) => {
    if (!(event.target instanceof Element && event.target.closest("#theme-button"))) return;
    const theme = document.body.classList.contains("dark") ? "light" : "dark";
    stored((storage) => storage.setItem(KEY, theme));
    apply(theme);
  });
  // Keep the open tab in the address, so that a reload shows the same view.
  const tabs = () => [...document.querySelectorAll("#tabs > .tab-wrapper [role=tab]")];
  const nameOf = (tab) => tab.textContent.trim().toLowerCase();
  const remember = (tab) => {
    const address = new URL(location.href);
    address.searchParams.set("tab", nameOf(tab));
    history.replaceState(null, "", address);
  };
  const wanted = new URLSearchParams(location.search).get("tab");
  tabs()
    .find((tab) => nameOf(tab) === wanted)
    ?.click();
  const bar = document.querySelector("#tabs > .tab-wrapper");
  if (bar) {
    new MutationObserver(() => {
      const open = tabs().find((tab) => tab.getAttribute("aria-selected") === "true");
      if (open) remember(open);
    }).observe(bar, { subtree: true, attributes: true, attributeFilter: ["aria-selected"] });
  }

  // Capture phase: before a text box inserts a new line.
  document.addEventListener(
    "keydown",
    (event) => {
      if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
      const ask = document.querySelector("#ask-button:not([disabled])");
      if (!ask || ask.offsetParent === null) return; // another tab is open
      event.preventDefault();
      event.stopPropagation();
      // A focused text box publishes its last characters on blur.
      document.activeElement?.blur?.();
      setTimeout(() => ask.click());
    },
    true,
  );
};
