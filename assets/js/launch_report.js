// Report of a planned run: its settings, then each finding of the preflight check as it arrives.
const report = element.querySelector(".hs-report");
const MARKS = { good: "✓", check: "!", bad: "✕" };
const WORDS = { good: "OK", check: "warning", bad: "error" };

const line = (state, topic, text, advice) =>
  build("li", { class: `hs-finding hs-finding-${state}` }, [
    build("span", {
      class: "hs-finding-icon",
      text: MARKS[state],
      title: WORDS[state],
      "aria-label": WORDS[state],
      role: "img",
    }),
    build("strong", { text: topic }),
    build("span", { text }),
    advice ? build("em", { text: advice }) : null,
  ]);

function load() {
  const value = props.value;
  report.hidden = !value;
  if (!value) return;
  const lines = [
    ...value.problems.map(([label, text]) => line("bad", label, text)),
    ...value.notes.map((text) => line("check", "Note", text)),
    ...value.findings.map((found) => line(found.state, found.topic, found.text, found.advice)),
  ];
  report.replaceChildren(
    ...present([
      value.headline ? build("h3", { text: value.headline }) : null,
      value.facts.length
        ? build(
            "dl",
            { class: "hs-facts" },
            value.facts.map(([name, text]) => build("div", {}, [build("dt", { text: name }), build("dd", { text })])),
          )
        : null,
      lines.length ? build("ul", { class: "hs-findings" }, lines) : null,
      value.is_checking
        ? build("p", { class: "hs-checking" }, [
            build("span", { class: "hs-spinner", "aria-hidden": "true" }),
            build("span", { text: value.findings.length ? "Checking…" : "Checking: loading libraries…" }),
          ])
        : null,
      value.outcome
        ? build("p", { class: `hs-outcome ${value.is_refused ? "hs-outcome-bad" : ""}`, text: value.outcome })
        : null,
    ]),
  );
}

watch("value", load);
load();
