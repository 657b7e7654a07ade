// Shows the sum of the delivery that is chosen. The shop worked out each of them; nothing is added up here.
const form = document.querySelector(".checkout");

function show() {
  const chosen = form.elements.delivery.value;
  for (const sum of form.querySelectorAll("[data-delivery]")) {
    sum.classList.toggle("is-chosen", sum.dataset.delivery === chosen);
  }
}

form.addEventListener("change", show);
// Coming back to the page, browsers put the earlier choice in without telling.
addEventListener("pageshow", show);
