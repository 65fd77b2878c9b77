// Hides the tiles that the filters do not want, and keeps the choice in the address.
document.addEventListener("DOMContentLoaded", () => {
  for (const room of document.querySelectorAll("[data-room]")) {
    const lines = document.querySelectorAll(`.from-${room.dataset.room}`);
    room.addEventListener("mouseenter", () => lines.forEach((line) => line.classList.add("shown")));
    room.addEventListener("mouseleave", () => lines.forEach((line) => line.classList.remove("shown")));
  }
  const form = document.getElementById("filters");
  if (!form) return;
  const field = (name) => document.getElementById(`filter-${name}`);
  const names = ["text", "task", "params", "gmacs", "ms"];
  const tiles = [...document.querySelectorAll(".tile")];
  const asked = new URLSearchParams(location.hash.slice(1));
  for (const name of names) field(name).value = asked.get(name) ?? "";
  field("ready").checked = asked.has("ready");

  const show = () => {
    const known = (name, tile) => name === "params" || Number(tile.dataset[name]) > 0; // 0: nobody counted or timed it
    const under = (name, tile) =>
      !field(name).value || (known(name, tile) && Number(tile.dataset[name]) < Number(field(name).value));
    const wanted = tiles.filter(
      (tile) =>
        tile.dataset.name.includes(field("text").value.trim().toLowerCase()) &&
        (!field("task").value || tile.dataset.task === field("task").value) &&
        under("params", tile) &&
        under("gmacs", tile) &&
        under("ms", tile) &&
        (!field("ready").checked || tile.dataset.ready === "1"),
    );
    tiles.forEach((tile) => (tile.hidden = !wanted.includes(tile)));
    field("count").textContent = `${wanted.length} of ${tiles.length}`;
    const kept = new URLSearchParams(names.filter((name) => field(name).value).map((name) => [name, field(name).value]));
    if (field("ready").checked) kept.set("ready", "1");
    history.replaceState(null, "", kept.size ? `#${kept}` : location.pathname);
  };
  form.addEventListener("input", show);
  show();
});
