// Gradio's tabs lack arrow keys.
document.addEventListener("keydown", (event) => {
  const tab = event.target.closest?.("[role=tab]");
  const step = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[event.key];
  if (!tab || !step) return;
  const tabs = [...tab.parentElement.querySelectorAll("[role=tab]")];
  const isArrow = Math.abs(step) === 1;
  const index = isArrow ? (tabs.indexOf(tab) + step + tabs.length) % tabs.length : step < 0 ? 0 : -1;
  tabs.at(index).focus();
  tabs.at(index).click();
  event.preventDefault();
});
// Only the selected tab is in the order of the Tab key.
new MutationObserver(() => {
  for (const tab of document.querySelectorAll("[role=tab]"))
    tab.tabIndex = tab.getAttribute("aria-selected") === "true" ? 0 : -1;
}).observe(document, { subtree: true, childList: true, attributeFilter: ["aria-selected"] });
