// Asks how the order stands, and shows the page anew as soon as that changed.
const page = document.querySelector("[data-status-url]");
const soon = 2000;
const late = 30000;
let wait = soon;
let timer;

async function ask() {
  try {
    const reply = await fetch(page.dataset.statusUrl, { cache: "no-store" });
    if (!reply.ok) throw new Error(reply.status);
    const { state, label, final } = await reply.json();
    wait = soon;
    if (state !== page.dataset.state) {
      page.querySelector("[role=status]").textContent = label;
      // Not reload(): that keeps the scroll position, and the news stands at the top. Without the fragment, or the
      // browser would only scroll to it.
      location.replace(location.pathname + location.search);
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

document.addEventListener("visibilitychange", () => {
  clearTimeout(timer);
  if (!document.hidden) ask();
});
timer = setTimeout(ask, wait);
