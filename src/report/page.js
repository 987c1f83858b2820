"use strict";
(() => {
  const root = document.documentElement, theme = document.getElementById("theme");
  const themes = ["auto", "light", "dark"];
  const dress = name => {
    if (name === "auto") delete root.dataset.theme; else root.dataset.theme = name;
    theme.textContent = "Theme: " + name;
  };
  let worn = root.dataset.theme || "auto";
  // A page that is opened from a file may have no storage.
  try { worn = localStorage.getItem("repairity-theme") || worn; } catch { }
  dress(themes.includes(worn) ? worn : "auto");
  theme.hidden = false;
  theme.addEventListener("click", () => {
    worn = themes[(themes.indexOf(root.dataset.theme || "auto") + 1) % themes.length];
    dress(worn);
    try { localStorage.setItem("repairity-theme", worn); } catch { }
  });

  const browser = document.getElementById("browser");
  if (!browser) return;
  const articles = [...document.querySelectorAll("#examples article")];
  const filters = [...browser.querySelectorAll("[data-filter]")], model = browser.querySelector("[data-show]");
  const place = document.getElementById("place");
  let chosen = articles, at = 0;
  const draw = () => {
    articles.forEach(article => { article.hidden = article !== chosen[at]; });
    place.textContent = chosen.length ? (at + 1) + " of " + chosen.length : "none";
  };
  const choose = () => {
    const current = chosen[at];
    chosen = articles.filter(article => filters.every(one => !one.value || article.dataset[one.dataset.filter] === one.value));
    at = Math.max(0, chosen.indexOf(current));
    draw();
  };
  const step = by => {
    if (!chosen.length) return;
    at = (at + by + chosen.length) % chosen.length;
    draw();
    history.replaceState(null, "", "#" + chosen[at].id);
  };
  const follow = () => {
    const target = articles.find(article => "#" + article.id === location.hash);
    if (!target) return;
    if (!chosen.includes(target)) {
      filters.forEach(one => { one.value = ""; });
      choose();
    }
    at = chosen.indexOf(target);
    draw();
    target.scrollIntoView({ block: "nearest" });
  };
  filters.forEach(one => one.addEventListener("change", choose));
  model.addEventListener("change", () => document.querySelectorAll("#examples [data-model]").forEach(answer => {
    answer.hidden = Boolean(model.value) && answer.dataset.model !== model.value;
  }));
  document.getElementById("previous").addEventListener("click", () => step(-1));
  document.getElementById("next").addEventListener("click", () => step(1));
  document.addEventListener("keydown", event => {
    if (event.altKey || event.ctrlKey || event.metaKey || event.target.closest("select, pre, .scroll, .trace")) return;
    const box = document.getElementById("examples").getBoundingClientRect();
    // Elsewhere on the page the arrows belong to the reader.
    if (box.top > innerHeight || box.bottom < 0) return;
    if (event.key === "ArrowLeft") step(-1);
    if (event.key === "ArrowRight") step(1);
  });
  addEventListener("hashchange", follow);
  browser.hidden = false;
  draw();
  follow();
})();
