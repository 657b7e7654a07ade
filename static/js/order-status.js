// Asks how the order stands, and shows the page anew as soon as it would look different.
const page = document.querySelector("[data-view]");
const soon = 2000;
const late = 30000;
let wait = soon;
let timer;

async function ask() {
  try {
    const reply = await fetch(page.dataset.statusUrl, { cache: "no-store" });
    if (!reply.ok) throw new Error(reply.status);
    const { view, label, final } = await reply.json();
    wait = soon;
    if (view !== page.dataset.view) {
      page.querySelector("[role=status]").textContent = label;
      // The new page begins at its heading, also for those who hear it, and not where this one was scrolled to.
      history.scrollRestoration = "manual";
      history.replaceState(null, "", "#heading");
      location.reload();
      return;
    }
    if (final) return;
  } catch {
    wait = Math.min(wait * 2, late);
  }
  clearTimeout(timer);
  // Nobody is looking: the question can wait until somebody is.
  if (!document.hidden) timer = setTimeout(ask, wait);
}

if (page.dataset.statusUrl) {
  document.addEventListener("visibilitychange", () => {
    clearTimeout(timer);
    if (!document.hidden) ask();
  });
  timer = setTimeout(ask, wait);
}
if (location.hash === "#heading") {
  document.getElementById("heading").focus();
  history.replaceState(null, "", location.pathname + location.search);
}
