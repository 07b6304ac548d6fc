// What gradio's page lacks: arrow keys between tabs.
document.addEventListener("keydown", (event) => {
  const tab = event.target.closest?.("[role=tab]");
  const step = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[event.key];
  if (!tab || !step) return;
  const tabs = [...tab.parentElement.querySelectorAll("[role=tab]")];
  const at = Math.abs(step) === 1 ? (tabs.indexOf(tab) + step + tabs.length) % tabs.length : step < 0 ? 0 : -1;
  tabs.at(at).focus();
  tabs.at(at).click();
  event.preventDefault();
});
new MutationObserver(() => {
  for (const tab of document.querySelectorAll("[role=tab]"))
    tab.tabIndex = tab.getAttribute("aria-selected") === "true" ? 0 : -1;
}).observe(document, { subtree: true, childList: true, attributeFilter: ["aria-selected"] });
