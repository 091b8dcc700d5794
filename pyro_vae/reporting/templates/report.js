"use strict";
// The map of the latents: what a point is, on hover or touch; and the explorer: a point of the latent space, decoded.
(() => {
  const map = document.getElementById("latents");
  if (!map) return;
  const data = JSON.parse(document.getElementById("map-data").textContent);
  const tip = document.getElementById("tip");
  const toView = (event) => {
    const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(map.getScreenCTM().inverse());
    return [point.x, point.y];
  };

  // --- what lies under the pointer
  const describe = (index, event) => {
    tip.replaceChildren();
    if (index < data.sprite.number) {
      const { width, height, columns, scale, uri } = data.sprite;
      const picture = document.createElement("div");
      const left = (index % columns) * width * scale, top = Math.floor(index / columns) * height * scale;
      const rows = Math.ceil(data.sprite.number / columns);
      picture.style.cssText = `width:${width * scale}px;height:${height * scale}px;` +
        `background:url(${uri}) -${left}px -${top}px / ${columns * width * scale}px ${rows * height * scale}px`;
      tip.append(picture);
    }
    const lines = [`datum ${index}`, data.labels[index] === null ? "" : `class ${data.labels[index]}`, data.scores[index]];
    for (const line of lines.filter(Boolean)) {
      const part = document.createElement("span");
      part.textContent = line;
      tip.append(part, document.createElement("br"));
    }
    tip.hidden = false;
    const right = window.scrollX + document.documentElement.clientWidth - tip.offsetWidth - 4;
    tip.style.left = `${Math.max(4, Math.min(event.pageX + 14, right))}px`;
    tip.style.top = `${event.pageY + 14}px`;
  };
  const nearest = ([x, y]) => {
    let best = -1, least = 14 * 14;
    data.points.forEach(([px, py], index) => {
      const distance = (px - x) ** 2 + (py - y) ** 2;
      if (distance < least) { least = distance; best = index; }
    });
    return best;
  };
  for (const name of ["pointermove", "pointerdown"]) {
    map.addEventListener(name, (event) => {
      const index = nearest(toView(event));
      if (index < 0) tip.hidden = true; else describe(index, event);
    });
  }
  map.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") tip.hidden = true; });

  // --- the explorer
  const panel = document.getElementById("explorer");
  if (!panel) return;
  const { origin, axes, units, scale, corner, shape, classes, argument } = data.explorer;
  const cross = document.getElementById("cross"), canvas = panel.querySelector("canvas");
  const status = document.getElementById("status"), choice = document.getElementById("class");
  const [channels, height, width] = shape.length === 3 ? shape : [1, ...shape];
  const z = Float64Array.from(origin);
  const times = [];
  let session = null, running = false, wanted = false;

  const alphabet = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;.=>?@^_`{|}~";
  const values = new Uint32Array(128);
  [...alphabet].forEach((character, value) => { values[character.charCodeAt(0)] = value; });
  const bytes = async (id) => {  // five characters are four bytes, which gzip packed
    const { textContent: text, dataset } = document.getElementById(id);
    const packed = new DataView(new ArrayBuffer(4 * Math.ceil(text.length / 5)));
    for (let i = 0; 5 * i < text.length; i++) {
      let number = 0;
      for (let k = 0; k < 5; k++) number = 85 * number + (5 * i + k < text.length ? values[text.charCodeAt(5 * i + k)] : 84);
      packed.setUint32(4 * i, number);
    }
    const file = new Blob([packed.buffer.slice(0, Number(dataset.bytes))]);
    return new Uint8Array(await new Response(file.stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer());
  };
  const text = async (id) => new TextDecoder().decode(await bytes(id));
  const unshuffled = (planes) => {  // bytes of the same rank lie together, as they compress better
    const number = planes.length / 4, whole = new Uint8Array(planes.length);
    for (let rank = 0; rank < 4; rank++)
      for (let i = 0; i < number; i++) whole[4 * i + rank] = planes[rank * number + i];
    return whole.subarray(0, data.explorer.bytes);
  };
  const start = async () => {
    const library = document.createElement("script");
    library.textContent = await text("ort-library");
    document.head.append(library);
    ort.env.wasm.numThreads = 1;
    ort.env.wasm.wasmBinary = await bytes("ort-wasm");
    // The address of a module from a blob has no folder, which this code would look for.
    const glue = (await text("ort-glue")).replaceAll("import.meta.url", "location.href");
    ort.env.wasm.wasmPaths = { mjs: URL.createObjectURL(new Blob([glue], { type: "text/javascript" })) };
    session = await ort.InferenceSession.create(unshuffled(await bytes("decoder")), { executionProviders: ["wasm"] });
    await decode(z);  // the first run takes longer than all others
  };
  const decode = async (latents, label = 0) => {
    const values = new Float32Array(latents.length + classes.length);
    values.set(latents);
    if (classes.length) values[latents.length + label] = 1;
    const given = { [argument]: new ort.Tensor("float32", values, [1, values.length]) };
    return (await session.run(given)).mean.data;
  };
  const paint = (mean) => {
    const context = canvas.getContext("2d"), image = context.createImageData(width, height), size = width * height;
    for (let i = 0; i < size; i++) {
      for (let c = 0; c < 3; c++) image.data[4 * i + c] = 255 * Math.min(1, Math.max(0, mean[(c % channels) * size + i]));
      image.data[4 * i + 3] = 255;
    }
    context.putImageData(image, 0, 0);
  };
  const decodeAndPaint = async () => {  // the latest wish alone, one at a time
    wanted = true;
    if (running || !session) return;
    running = true;
    while (wanted) {
      wanted = false;
      const before = performance.now();
      paint(await decode(z, choice ? Number(choice.value) : 0));
      times.push(performance.now() - before);
      if (times.length > 100) times.shift();
    }
    running = false;
    const middle = [...times].sort((a, b) => a - b)[times.length >> 1];
    status.textContent = `decoded in ${middle.toFixed(1)} ms (median of the last ${times.length})`;
  };

  const place = () => axes.map((axis) => axis.reduce((sum, value, i) => sum + value * (z[i] - origin[i]), 0));
  const sliders = units.map((unit) => panel.querySelector(`[data-unit="${unit}"]`));
  const show = () => {
    if (cross) {
      const [a, b] = place();
      cross.setAttribute("transform", `translate(${corner[0] + scale * a} ${corner[1] - scale * b})`);
      cross.setAttribute("aria-valuenow", a.toFixed(2));
      cross.setAttribute("aria-valuetext", `${a.toFixed(2)} across, ${b.toFixed(2)} up`);
    }
    for (const slider of sliders) {
      slider.value = z[slider.dataset.unit];
      slider.nextElementSibling.value = z[slider.dataset.unit].toFixed(2).replace("-0.00", "0.00");
    }
    decodeAndPaint();
  };
  const moveTo = (a, b) => {
    const [wasA, wasB] = place();
    for (let i = 0; i < z.length; i++) z[i] += (a - wasA) * axes[0][i] + (b - wasB) * axes[1][i];
    show();
  };
  for (const slider of sliders) {
    slider.addEventListener("input", () => { z[slider.dataset.unit] = Number(slider.value); show(); });
  }
  choice?.addEventListener("change", decodeAndPaint);
  document.getElementById("middle").addEventListener("click", () => { z.set(origin); show(); });
  if (cross) {
    const drag = (event) => {
      const [x, y] = toView(event);
      moveTo((x - corner[0]) / scale, (corner[1] - y) / scale);
    };
    let dragging = false;
    map.addEventListener("pointerdown", (event) => {
      const onCross = cross.contains(event.target);
      if (event.pointerType === "touch" && !onCross) return;  // a finger elsewhere scrolls the page, or taps
      dragging = true;
      map.setPointerCapture(event.pointerId);
      event.preventDefault();
      if (!onCross) drag(event);
    });
    map.addEventListener("pointermove", (event) => { if (dragging) drag(event); });
    for (const name of ["pointerup", "pointercancel"]) map.addEventListener(name, () => { dragging = false; });
    // A finger on the cross drags it, and does not scroll; touch-action means nothing inside a drawing.
    cross.addEventListener("touchstart", (event) => event.preventDefault(), { passive: false });
    map.addEventListener("click", (event) => { if (!cross.contains(event.target)) drag(event); });
    cross.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
      if (!step) return;
      event.preventDefault();
      const [a, b] = place();
      moveTo(a + (8 / scale) * step[0], b + (8 / scale) * step[1]);
    });
  }
  window.latentExplorer = {
    decode, times, ready: start().then(show, (error) => {
      status.textContent = `the decoder does not run in this browser: ${error.message ?? error}`;
      throw error;
    }),
  };
})();
