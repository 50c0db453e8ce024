// Prepended to every component script. Text is inserted as text nodes; no string is parsed as HTML, so questions,
// labels and model output cannot become markup.
const SVG_NAMESPACE = "http://www.w3.org/2000/svg";

// build("p", {class: "x", text: "…", onclick: f}, [children]); "svg:rect" makes an SVG node.
function build(tag, attributes = {}, children = []) {
  const node = tag.startsWith("svg:")
    ? document.createElementNS(SVG_NAMESPACE, tag.slice(4))
    : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "text") node.textContent = String(value);
    else if (typeof value === "function") node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...present(children));
  return node;
}

const present = (nodes) => nodes.filter((node) => node !== null && node !== undefined);

// Fill a select with [value, text] pairs. An unchanged list is left alone, because it may be open.
function fillSelect(select, options, value) {
  const now = JSON.stringify(options);
  if (select.filledWith !== now) {
    select.filledWith = now;
    select.replaceChildren(...options.map(([name, text]) => build("option", { value: name, text })));
  }
  select.value = value;
}

// Opens a tab of the whole page by its name.
const openTab = (name) =>
  [...document.querySelectorAll("#tabs > .tab-wrapper [role=tab]")]
    .find((tab) => tab.textContent.trim() === name)
    ?.click();

// The reader derives "lost": the process is gone without recording its end.
const describeState = (state) => (state === "lost" ? "crashed" : state);

const IOG_HELP = "Intersection over gold area (share of the gold box that is covered)";

const capitalize = (text) => text.charAt(0).toUpperCase() + text.slice(1);
const toSentence = (text) => capitalize(text) + (/[.!?…]$/.test(text) ? "" : ".");

// Keys with these modifiers belong to the browser.
const hasModifier = (event) => event.altKey || event.ctrlKey || event.metaKey;

const formatCount = (value) => Math.round(value).toLocaleString("en-US");
const formatSize = (width, height) => `${formatCount(width)} × ${formatCount(height)} px`;

// Round half to even like the server: 31.25 -> "31.2".
function toRounded(value, digits) {
  const doubled = value * 2 ** (digits + 1);
  if (!Number.isInteger(doubled) || doubled % 2 === 0) return value.toFixed(digits);
  const below = Math.floor(value * 10 ** digits);
  return ((below % 2 === 0 ? below : below + 1) / 10 ** digits).toFixed(digits);
}

// 0.0213 -> "2.1 %". Shares below 1 % keep two digits.
function formatShare(share) {
  const percent = share * 100;
  if (percent > 0 && percent < 0.01) return "< 0.01 %";
  return `${toRounded(percent, percent > 0 && percent < 1 ? 2 : 1)} %`;
}

const formatSeconds = (seconds) => `${seconds.toFixed(seconds < 10 ? 2 : 1)} s`;

// Components of one result column talk through DOM events on their common ancestor.
const resultColumn = () => element.closest(".hs-result") ?? element;
