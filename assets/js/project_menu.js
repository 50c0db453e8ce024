// Project menu of the Label tab: rename, duplicate, archive, delete, restore. All use one dialog.
// current(): list entry of the selected project, or undefined. problem(): error of the last call.
function createProjectMenu(page, { call, problem, showMessage, current, refresh, isVisitor }) {
  const host = page.querySelector(".hs-project-menu");
  const button = host.querySelector(".hs-menu-button");
  const menu = host.querySelector("[role=menu]");
  const dialog = page.querySelector(".hs-project-dialog");
  let isArchivedShown = false;

  const entries = () => {
    const chosen = current();
    const canBeOpened = chosen && !chosen.problem;
    const isArchived = Boolean(chosen?.is_archived);
    return [
      { text: "Rename…", act: rename, isOff: !canBeOpened },
      { text: "Duplicate…", act: duplicate, isOff: !canBeOpened },
      { text: isArchived ? "Unarchive" : "Archive", act: () => archive(!isArchived), isOff: !canBeOpened },
      { text: "Delete…", act: remove, isOff: !canBeOpened, isBad: true },
      { text: "Show archived", act: toggleArchived, isChecked: isArchivedShown },
      ...(isVisitor() ? [] : [{ text: "Trash…", act: showTrash }]),
    ];
  };

  function open() {
    menu.replaceChildren(
      ...entries().map((entry) =>
        build("button", {
          type: "button",
          role: "isChecked" in entry ? "menuitemcheckbox" : "menuitem",
          tabindex: "-1",
          text: entry.text,
          "aria-checked": "isChecked" in entry ? String(entry.isChecked) : null,
          disabled: entry.isOff ?? false,
          class: entry.isBad ? "hs-bad" : null,
          onclick: () => {
            close();
            entry.act();
          },
        }),
      ),
    );
    menu.hidden = false;
    button.setAttribute("aria-expanded", "true");
    usable()[0]?.focus();
  }

  function close() {
    if (menu.hidden) return;
    menu.hidden = true;
    button.setAttribute("aria-expanded", "false");
    button.focus();
  }

  const usable = () => [...menu.querySelectorAll("button:not(:disabled)")];

  button.addEventListener("click", () => (menu.hidden ? open() : close()));
  document.addEventListener("pointerdown", (event) => {
    if (!host.contains(event.target)) {
      menu.hidden = true;
      button.setAttribute("aria-expanded", "false");
    }
  });
  host.addEventListener("keydown", (event) => {
    if (hasModifier(event) || menu.hidden) return;
    const items = usable();
    const at = items.indexOf(page.ownerDocument.activeElement);
    const next = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: -1 }[event.key];
    if (event.key === "Escape") close();
    else if (event.key === "Tab") {
      menu.hidden = true;
      button.setAttribute("aria-expanded", "false");
      return;
    } else if (next === undefined) return;
    else items.at(next % items.length)?.focus();
    event.preventDefault();
    event.stopPropagation();
  });

  // Dialog with one text field. act(value, button) returns whether it succeeded; errors are shown in the dialog.
  function ask({ title, text, label, value = "", verb, isBad = false, isReady = (now) => now.trim() !== "", act }) {
    const input = build("input", { maxlength: 120, "aria-label": label, autocomplete: "off" });
    input.value = value;
    const message = build("p", { class: "hs-bad hs-dialog-message", role: "alert" });
    const go = build("button", { type: "submit", class: isBad ? "hs-danger" : "hs-primary", text: verb });
    const check = () => {
      go.disabled = !isReady(input.value);
    };
    input.addEventListener("input", check);
    check();
    const submit = async (event) => {
      event.preventDefault();
      message.textContent = "";
      if (await act(input.value.trim(), go)) return dialog.close();
      message.textContent = problem();
      check();
    };
    show(title, [
      ...text.map((line) => build("p", { text: line })),
      build("form", { onsubmit: submit }, [
        build("label", {}, [build("span", { text: label }), input]),
        message,
        build("div", { class: "hs-dialog-buttons" }, [
          build("button", { type: "button", text: "Cancel", onclick: () => dialog.close() }),
          go,
        ]),
      ]),
    ]);
    input.focus();
    input.select();
  }

  function show(title, children) {
    dialog.setAttribute("aria-label", title);
    dialog.replaceChildren(build("h3", { text: title }), ...children);
    if (!dialog.open) dialog.showModal();
  }

  function rename() {
    const chosen = current();
    ask({
      title: "Rename project",
      text: [`The project folder stays “${chosen.id}”.`],
      label: "New name",
      value: chosen.name,
      verb: "Rename",
      act: async (name, go) => {
        const response = await call("rename", { name }, go);
        if (response?.id) await refresh(response.id);
        return Boolean(response?.id);
      },
    });
  }

  function duplicate() {
    const chosen = current();
    ask({
      title: "Duplicate project",
      text: [
        "Copied: items, labels with their history, decisions, images in " +
          "the project’s folder, labeling runs. Not copied: exports and logs.",
        "Review can continue during the copy.",
      ],
      label: "Name of the copy",
      value: `${chosen.name} copy`.slice(0, 120),
      verb: "Duplicate",
      act: async (name, go) => {
        const response = await call("duplicate", { name }, go);
        if (response?.id) {
          await refresh(response.id);
          showMessage(`“${chosen.name}” copied to “${name}”.`);
        }
        return Boolean(response?.id);
      },
    });
  }

  async function archive(is_archived) {
    const chosen = current();
    const response = await call("archive", { is_archived }, button);
    if (!response?.id) return;
    await refresh(is_archived && !isArchivedShown ? null : response.id);
    showMessage(
      is_archived
        ? `“${chosen.name}” archived. To list it, choose Show archived in the project menu.`
        : `“${chosen.name}” unarchived.`,
    );
  }

  function remove() {
    const chosen = current();
    const after = isVisitor()
      ? "It is deleted permanently."
      : "It is moved to the trash and can be restored for 7 days.";
    ask({
      title: "Delete project",
      text: [`“${chosen.name}” has ${formatCount(chosen.items)} item${chosen.items === 1 ? "" : "s"}. ${after}`],
      label: `Type the project name: ${chosen.name}`,
      verb: "Delete",
      isBad: true,
      isReady: (now) => now.trim() === chosen.name,
      act: async (confirmation, go) => {
        const response = await call("delete", { confirmation }, go);
        if (!response) return false;
        await refresh(null);
        showMessage(
          isVisitor()
            ? `“${chosen.name}” deleted.`
            : `“${chosen.name}” moved to the trash. Restore it within 7 days: project menu, Trash.`,
        );
        return true;
      },
    });
  }

  async function toggleArchived() {
    isArchivedShown = !isArchivedShown;
    await refresh(current()?.id ?? null);
  }

  async function showTrash() {
    const found = await call("trash", {}, button);
    if (!Array.isArray(found)) return;
    const message = build("p", { class: "hs-bad hs-dialog-message", role: "alert" });
    const restore = async (entry, go) => {
      const response = await call("restore", { entry: entry.entry }, go);
      if (!response?.id) {
        message.textContent = problem();
        return;
      }
      dialog.close();
      await refresh(response.id);
      showMessage(`“${entry.name}” restored.`);
    };
    show("Trash", [
      build("p", {
        text: found.length
          ? "Projects are deleted permanently after 7 days."
          : "Trash is empty. Deleted projects stay here for 7 days.",
      }),
      build(
        "ul",
        { class: "hs-trash" },
        found.map((entry) =>
          build("li", {}, [
            build("span", { class: "hs-trash-name", text: entry.name }),
            build("span", {
              class: "hs-muted",
              text:
                `deleted ${new Date(entry.deleted_at).toLocaleDateString("en-CA")}, ` +
                `${entry.days_left} day${entry.days_left === 1 ? "" : "s"} left`,
            }),
            build("button", {
              type: "button",
              text: "Restore",
              "aria-label": `Restore ${entry.name}`,
              onclick: (event) => restore(entry, event.target),
            }),
          ]),
        ),
      ),
      message,
      build("div", { class: "hs-dialog-buttons" }, [
        build("button", { type: "button", text: "Close", onclick: () => dialog.close() }),
      ]),
    ]);
  }

  return { isArchivedShown: () => isArchivedShown };
}
