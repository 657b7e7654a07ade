// On a phone the areas of the dashboard are a strip that scrolls: the one that is open is brought into view.
document.querySelector(".desk-nav [aria-current]")?.scrollIntoView({ block: "nearest", inline: "center", behavior: "instant" });
