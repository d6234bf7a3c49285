"use strict";
(() => {
  const $ = (selector, from = document) => from.querySelector(selector);
  const $$ = (selector, from = document) => [...from.querySelectorAll(selector)];
  const on = (element, event, act) => element && element.addEventListener(event, act);

  // The table: which columns, which rows, in which order.
  const table = $("#table"), body = table.tBodies[0], all = $("#all-columns"), filter = $("#filter");
  const groups = $$("[data-show]");
  const headline = new Set($$("th[data-headline]", table).map((head) => head.dataset.column));

  function showColumns() {
    const wanted = new Set(groups.filter((box) => box.checked).map((box) => box.dataset.show));
    const whole = all ? all.checked : true;
    for (const box of groups) box.parentElement.hidden = !(whole && groups.length > 1);
    for (const cell of $$("[data-column]")) {
      cell.hidden = whole ? !wanted.has(cell.dataset.group) : !headline.has(cell.dataset.column);
    }
  }
  on(all, "change", showColumns);
  for (const box of groups) on(box, "change", showColumns);

  function filterRows() {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    const variants = $$("tr.variant", body);
    for (const each of [...variants, ...$$("figure[data-name]")]) {
      each.hidden = !words.every((word) => each.dataset.name.includes(word));
    }
    const left = variants.filter((row) => !row.hidden).length;
    $("#matches").textContent = words.length ? `${left} of ${variants.length} variants` : "";
  }
  on(filter, "input", filterRows);
  on(filter, "keydown", (event) => {
    if (event.key === "Escape") { filter.value = ""; filterRows(); filter.blur(); }
  });

  const value = (row, column) => {
    const cell = $(`[data-column="${column}"]`, row);
    return cell && "value" in cell.dataset ? Number(cell.dataset.value) : NaN;
  };
  // The better end first, then the other one, then the order of the file.
  function sortBy(head, column) {
    const first = head.dataset.better === "higher" ? "descending" : "ascending";
    const last = first === "ascending" ? "descending" : "ascending";
    const next = { none: first, [first]: last, [last]: "none" }[head.getAttribute("aria-sort")];
    const way = column === "order" ? "none" : next;
    for (const other of $$("th[aria-sort]", table)) other.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", way);
    const sign = way === "descending" ? -1 : 1;
    const order = (row) => Number(row.dataset.order);
    const rows = [...body.rows].sort((one, two) => {
      if (way === "none") return order(one) - order(two);
      const a = value(one, column), b = value(two, column);
      if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b) || order(one) - order(two);
      return sign * (a - b) || order(one) - order(two);
    });
    body.append(...rows);
  }
  for (const button of $$("[data-sort]", table)) {
    on(button, "click", () => sortBy(button.closest("th"), button.dataset.sort));
  }
  for (const name of ["differences", "seeds"]) {
    on($(`#${name}`), "change", (event) => table.classList.toggle(`show-${name}`, event.target.checked));
  }

  // An address may point at what is folded or not among the headlines.
  function reveal() {
    let target = null;
    try { target = document.getElementById(decodeURIComponent(location.hash.slice(1))); } catch { return; }
    if (!target) return;
    const fold = target.closest("details");
    if (fold) fold.open = true;
    if (target.dataset.column && target.hidden && all) {
      all.checked = true;
      for (const box of groups) box.checked = true;
      showColumns();
    }
    target.scrollIntoView({ block: "nearest", inline: "center" });
  }
  on(window, "hashchange", reveal);

  // The videos: each scene has one clock, in frames of its fastest video, that all of its videos follow.
  const play = $("#play"), loop = $("#loop"), speed = $("#speed"), seed = $("#seed");
  const scenes = $$(".scene").map((element) => ({
    element, frames: Number(element.dataset.frames), fps: Number(element.dataset.fps), at: 0, near: true,
    slider: $("input[type=range]", element), output: $("output", element), videos: $$("video", element),
  }));
  let playing = false, before = 0;

  const follow = (scene, video) => {
    const fps = Number(video.dataset.fps), last = Number(video.dataset.frames) - 1;
    const frame = Math.min(last, Math.floor((Math.floor(scene.at) / scene.fps) * fps + 1e-6));
    if (video.dataset.frame === String(frame)) return;
    // The middle of the frame: at its edge browsers differ in which one they show.
    video.currentTime = (frame + 0.5) / fps;
    video.dataset.frame = frame;
  };
  function show(scene) {
    for (const video of scene.videos) if (video.readyState && !video.closest("[hidden]")) follow(scene, video);
    const frame = Math.floor(scene.at) + 1;
    if (scene.slider.value !== String(frame)) scene.slider.value = frame;
    scene.output.value = `${frame} / ${scene.frames}`;
  }
  function tick(now) {
    if (!playing) return;
    const passed = Math.min(now - before, 250) / 1000 * Number(speed.value);
    before = now;
    let running = false;
    for (const scene of scenes) {
      const at = scene.at + passed * scene.fps;
      scene.at = loop.checked ? at % scene.frames : Math.min(at, scene.frames - 1);
      running ||= loop.checked || scene.at < scene.frames - 1;
      if (scene.near) show(scene);
    }
    if (running) requestAnimationFrame(tick); else setPlaying(false);
  }
  function setPlaying(wanted) {
    playing = wanted;
    play.textContent = wanted ? "Pause" : "Play";
    play.setAttribute("aria-pressed", String(wanted));
    if (!wanted) { for (const scene of scenes) { scene.at = Math.floor(scene.at); show(scene); } return; }
    if (!loop.checked && scenes.every((scene) => scene.at >= scene.frames - 1)) for (const scene of scenes) scene.at = 0;
    before = performance.now();
    requestAnimationFrame(tick);
  }
  function step(by) {
    if (!scenes.length) return;
    setPlaying(false);
    for (const scene of scenes) {
      const at = scene.at + by;
      scene.at = loop.checked ? (at + scene.frames) % scene.frames : Math.max(0, Math.min(at, scene.frames - 1));
      show(scene);
    }
  }
  function showSeeds() {
    for (const figure of $$(".scene figure")) {
      const shots = $$(".shot[data-seed]", figure);
      for (const shot of shots) {
        shot.hidden = seed.value !== "all" && shot.dataset.seed !== seed.value;
        $(".seed-name", shot).hidden = seed.value !== "all";
        const video = $("video", shot);
        if (!shot.hidden && video.dataset.src) { video.src = video.dataset.src; delete video.dataset.src; }
      }
      const missing = $(".missing", figure);
      if (missing) missing.hidden = shots.some((shot) => !shot.hidden);
    }
    for (const scene of scenes) show(scene);
  }
  on(play, "click", () => setPlaying(!playing));
  on($("#back"), "click", () => step(-1));
  on($("#forward"), "click", () => step(1));
  on(seed, "change", showSeeds);
  for (const scene of scenes) {
    on(scene.slider, "input", () => { setPlaying(false); scene.at = Number(scene.slider.value) - 1; show(scene); });
    for (const video of scene.videos) {
      on(video, "loadedmetadata", () => { delete video.dataset.frame; show(scene); });
      on(video, "error", () => {
        const said = { className: "none", textContent: "this browser cannot play it" };
        video.replaceWith(Object.assign(document.createElement("span"), said));
      });
    }
    show(scene);
  }
  if (scenes.length && "IntersectionObserver" in window) {
    // What nobody sees need not be decoded.
    const observer = new IntersectionObserver((seen) => {
      for (const { target, isIntersecting } of seen) {
        const scene = scenes.find((each) => each.element === target);
        scene.near = isIntersecting;
        if (isIntersecting) show(scene);
      }
    }, { rootMargin: "200px" });
    for (const scene of scenes) observer.observe(scene.element);
  }

  // Colours: as the system has them, or as chosen here before.
  const theme = $("#theme"), themes = ["auto", "light", "dark"];
  function setTheme(name) {
    if (name === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = name;
    theme.textContent = name[0].toUpperCase() + name.slice(1);
    theme.setAttribute("aria-label", `Colours: ${name === "auto" ? "as the system has them" : name}`);
    try { localStorage.setItem("cogvid-theme", name); } catch { /* a page of its own may keep nothing */ }
  }
  let chosen = "auto";
  try { chosen = localStorage.getItem("cogvid-theme") || "auto"; } catch { /* as above */ }
  setTheme(themes.includes(chosen) ? chosen : "auto");
  on(theme, "click", () => {
    const now = document.documentElement.dataset.theme || "auto";
    setTheme(themes[(themes.indexOf(now) + 1) % themes.length]);
  });

  const help = $("#help");
  on($("#help-button"), "click", () => help.showModal());
  const press = (box) => () => box && box.click();
  const keys = {
    " ": () => scenes.length && setPlaying(!playing),
    ArrowLeft: () => step(-1),
    ArrowRight: () => step(1),
    n: () => { if (seed) { seed.selectedIndex = (seed.selectedIndex + 1) % seed.length; showSeeds(); } },
    l: press(loop), a: press(all), d: press($("#differences")), s: press($("#seeds")),
    "/": () => filter.focus(),
    "?": () => help.showModal(),
  };
  on(document, "keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || help.open || !(event.key in keys)) return;
    const target = event.target, typing = target.matches("input:not([type=checkbox]), select, textarea");
    const pressing = event.key === " " && target.matches("button, input, summary, a");
    // The arrows scroll what is wider than the page.
    const scrolling = event.key.startsWith("Arrow") && target.matches(".scroll");
    if (typing || pressing || scrolling) return;
    event.preventDefault();
    keys[event.key]();
  });
  on(window, "beforeprint", () => { for (const fold of $$("details")) fold.open = true; });
  showColumns();
  reveal();
})();
