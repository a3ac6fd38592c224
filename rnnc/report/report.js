"use strict";
// The picture selects a layer, a direction and a step; both viewers below show the texts of all stages.
const data = JSON.parse(document.getElementById("data").textContent);

function element(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

// A row of tabs over a <pre>. entries: [title, () => text]. A text is made when it is first looked at.
function viewer(entries) {
  const tabs = element("div", { class: "tabs", role: "tablist" });
  const pre = element("pre", { tabindex: "0" });
  const show = (number) => {
    [...tabs.children].forEach((tab, n) => tab.setAttribute("aria-selected", String(n === number)));
    pre.textContent = entries[number][1]();
    pre.scrollTop = 0;
  };
  entries.forEach(([title], number) => {
    const tab = element("button", { role: "tab", type: "button" }, title);
    tab.addEventListener("click", () => show(number));
    tabs.append(tab);
  });
  if (entries.length) show(0);
  return [tabs, pre];
}

// The lines of a text that a site and, if there is one, a step wrote: "... @ l0.fwd, t=1".
function linesOf(text, site, step) {
  const found = text.split("\n").filter((line) => {
    const place = line.slice(line.lastIndexOf("@") + 1);
    if (place === line) return false;
    const sites = place.match(/\bl\d+(\.\w+)*/g) || [];
    if (!sites.some((each) => each === site || each.startsWith(site + "."))) return false;
    const at = place.match(/\bt=(\d+)/);
    return step === null || at === null || Number(at[1]) === step;
  });
  return found.map((line) => line.trim()).join("\n") || "(nothing of it is left at this stage)";
}

// The blocks of the plan that begin with "  phase NAME:".
function phaseTexts(text, names) {
  const blocks = text.split(/\n(?=  phase |region )/);
  return blocks.filter((block) => names.some((name) => block.startsWith(`  phase ${name}:`))).join("\n");
}

function phasesOf(site) {
  const belongs = (phase) => phase.sites.some((each) => each === site || each.startsWith(site + "."));
  return data.phases.filter(belongs);
}

// The functions of phases; phases of the same structure share one.
function functionsOf(phases, kind) {
  const users = new Map();
  for (const phase of phases) users.set(phase.function, [...(users.get(phase.function) || []), phase.name]);
  const texts = [...users].map(([name, of]) => `; phase ${of.join(", ")}\n${data.functions[name][kind]}`);
  return texts.join("\n") || "(no phase of its own)";
}

function select(box) {
  document.querySelectorAll(".picked").forEach((each) => each.classList.remove("picked"));
  const shown = document.getElementById("selected");
  if (box === null) {
    shown.textContent = "Nothing is selected: click a box of the picture.";
    return;
  }
  box.classList.add("picked");
  const { site } = box.dataset;
  const step = Number(box.dataset.step);
  const phases = phasesOf(site);
  const names = phases.map((phase) => phase.name);
  const entries = data.stages.map(({ name, text }) => {
    if (name === "plan") return ["plan", () => phaseTexts(text, names) || "(no phase of its own)"];
    return [name, () => linesOf(text, site, name === "rolled" ? null : step)];
  });
  entries.push(["llvm", () => functionsOf(phases, "llvm")], ["asm", () => functionsOf(phases, "asm")]);
  const title = box.querySelector("title").textContent;
  shown.replaceChildren(element("p", {}, `${title} (${site}, t = ${step})`), ...viewer(entries));
}

document.querySelectorAll("g[data-site]").forEach((box) => {
  box.addEventListener("click", () => select(box));
  box.addEventListener("keydown", (event) => {
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      select(box);
    }
  });
});
document.addEventListener("keydown", (event) => event.key === "Escape" && select(null));

document.getElementById("stages").append(
  ...viewer([
    ...data.stages.map(({ name, text }) => [name, () => text]),
    ["llvm", () => functionsOf(data.phases, "llvm")],
    ["asm", () => functionsOf(data.phases, "asm")],
  ]),
);
