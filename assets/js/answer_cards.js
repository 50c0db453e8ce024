// Self-check badges, then one card per protocol. Model output is shown as text only.
const board = element.querySelector(".hs-answers");

function badge(check) {
  const tooltip = build("span", { class: "hs-tooltip", role: "tooltip", text: check.help });
  return build("li", {}, [
    build("button", { type: "button", class: `hs-badge hs-${check.state}`, "aria-description": check.help }, [
      build("span", { class: "hs-badge-name", text: check.name }),
      build("span", { class: "hs-badge-value", text: check.value }),
      tooltip,
    ]),
  ]);
}

function fact(name, value) {
  return build("div", {}, [build("dt", { text: name }), build("dd", { text: value })]);
}

function transcript(turns) {
  return build("details", { class: "hs-raw" }, [
    build("summary", { text: "Raw output" }),
    ...turns.flatMap((turn) => [
      build("h4", { text: turn.title }),
      build("pre", { tabindex: "0", text: turn.text || "(empty)" }),
    ]),
  ]);
}

function card(answer) {
  return build(
    "article",
    {
      class: `hs-card ${answer.is_primary ? "hs-primary" : ""}`,
      "data-protocol": answer.protocol,
    },
    [
      build("header", {}, [
        build("h3", { text: answer.title }),
        answer.verdict ? build("span", { class: `hs-verdict hs-${answer.verdict}`, text: answer.verdict_text }) : null,
      ]),
      build("p", { class: "hs-muted", text: answer.subtitle }),
      build("p", { class: "hs-answer" }, [
        answer.letter ? build("span", { class: "hs-letter", text: answer.letter }) : null,
        build("span", { class: answer.answer ? "" : "hs-none", text: answer.answer || "no answer" }),
      ]),
      answer.note ? build("p", { class: "hs-note", text: answer.note }) : null,
      build("dl", { class: "hs-facts" }, [
        fact("Visual tokens", formatCount(answer.visual_tokens)),
        fact("Time", formatSeconds(answer.seconds)),
      ]),
      answer.turns.length ? transcript(answer.turns) : null,
    ],
  );
}

function load() {
  const value = props.value;
  if (!value) return board.replaceChildren();
  board.replaceChildren(
    ...present([
      ...value.warnings.map((text) => build("p", { class: "hs-warning", role: "alert", text })),
      build("header", { class: "hs-answers-head" }, [
        build("h2", { text: "Answers" }),
        build("span", { class: "hs-model", title: value.model, text: value.model }),
        value.expected ? build("span", { class: "hs-muted", text: `Known answer: ${value.expected}` }) : null,
      ]),
      value.checks.length
        ? build("ul", { class: "hs-badges", "aria-label": "Self-checks" }, value.checks.map(badge))
        : null,
      build("div", { class: "hs-cards" }, value.cards.map(card)),
    ]),
  );
}

watch("value", load);
load();
