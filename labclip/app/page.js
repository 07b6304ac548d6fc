// What gradio's page lacks: arrow keys between tabs, and the news that the server is gone.
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
setInterval(async () => {
  const there = await fetch("gradio_api/app_id").then((answer) => answer.ok, () => false);
  const notice = document.querySelector("#l-gone");
  if (there && notice) location.reload(); // its session has ended
  if (there || notice) return;
  document.body.classList.add("l-gone");
  document.body.insertAdjacentHTML("afterbegin", `<p id="l-gone" role="alert">The server is gone, and what stands here is
    its last answer. Start labclip app again.</p>`);
}, 3000);
