// window × kernel = output at the position that is pointed at, tapped, or reached by the arrow keys.
// Brings every .touch element to life; its data-touch attribute has all numbers (see touch.py).
(() => {
  "use strict";

  const make = (tag, className, parent, text) => {
    const element = document.createElement(tag);
    if (className) element.className = className;
    if (text !== undefined) element.textContent = text;
    if (parent) parent.append(element);
    return element;
  };

  // 16-bit numbers, little end first, in base 64
  const numbers = ([text, unit]) => {
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const view = new DataView(bytes.buffer);
    return Float32Array.from({ length: bytes.length / 2 }, (_, place) => view.getInt16(2 * place, true) * unit);
  };

  const largest = (values) => values.reduce((most, value) => Math.max(most, Math.abs(value)), 1e-12);
  const written = (value) => {
    const digits = Math.abs(value) >= 100 ? 0 : Math.abs(value) >= 10 ? 1 : 2;
    const text = value.toFixed(digits);
    return (Number(text) === 0 ? (0).toFixed(digits) : text).replace("-", "−");
  };

  const colour = (value, limit, stops) => {
    const place = (Math.min(Math.max(value / limit, -1), 1) + 1) / 2 * (stops.length - 1);
    const low = Math.min(Math.floor(place), stops.length - 2);
    return [0, 1, 2].map((part) => stops[low][part] + (place - low) * (stops[low + 1][part] - stops[low][part]));
  };

  // NaN stays clear: there is nothing, and the hatching below shows
  const paint = (canvas, [rows, columns], values, limit, stops) => {
    canvas.width = columns;
    canvas.height = rows;
    const context = canvas.getContext("2d");
    const image = context.createImageData(columns, rows);
    values.forEach((value, place) => {
      if (Number.isNaN(value)) return;
      image.data.set([...colour(value, limit, stops).map(Math.round), 255], 4 * place);
    });
    context.putImageData(image, 0, 0);
  };

  // the look of the page, whoever chose it: light text is on dark
  const isDark = (element) => {
    const parts = getComputedStyle(element).color.match(/[\d.]+/g).map(Number);
    return parts[0] + parts[1] + parts[2] > 384;
  };

  const read = (side) => {
    const made = { ...side, given: numbers(side.given), output: numbers(side.output), kernels: numbers(side.kernels) };
    made.outputLimit = largest(made.output);
    made.moving = side.kind === "involution";
    return made;
  };

  const at = (side, row, column) => {
    const [height, width] = side.size, [down, across] = side.taps;
    const first = side.moving ? (row * side.places[1] + column) * down * across : 0;
    const window = [], kernel = [], products = [];
    for (let u = 0; u < down; u += 1) {
      for (let v = 0; v < across; v += 1) {
        const y = row * side.step[0] - side.reach[0] + u * side.dilation[0];
        const x = column * side.step[1] - side.reach[1] + v * side.dilation[1];
        const inside = y >= 0 && y < height && x >= 0 && x < width;
        const weight = side.kernels[first + u * across + v];
        window.push(inside ? side.given[y * width + x] : NaN);
        kernel.push(weight);
        products.push(inside ? weight * side.given[y * width + x] : NaN);
      }
    }
    const sum = products.reduce((total, value) => total + (Number.isNaN(value) ? 0 : value), 0);
    return { window, kernel, products, sum, output: side.output[row * side.places[1] + column] };
  };

  // (top, left, height, width) in pixels of the picture
  const frame = (side, row, column) => [0, 1].map((axis) => {
    const place = axis ? column : row;
    return (place * side.step[axis] - side.reach[axis]) * side.pixels[axis];
  }).concat([0, 1].map((axis) => ((side.taps[axis] - 1) * side.dilation[axis] + 1) * side.pixels[axis]));

  const titles = { involution: "Involution: made for this position", convolution: "Convolution: the same everywhere" };

  function start(root) {
    const data = JSON.parse(root.dataset.touch);
    root.replaceChildren();
    root.dataset.ready = "true";
    let scene = 0, layer = data.first, row = 0, column = 0, sides = [], rows = [], timer = 0;

    const chooser = (label, names, chosen, change) => {
      if (names.length < 2) return;
      const select = make("select", "", make("label", "", choices, `${label} `));
      names.forEach((name, place) => { make("option", "", select, name).value = place; });
      select.value = chosen;
      select.addEventListener("change", () => change(Number(select.value)));
    };
    const choices = make("div", "touch-choices", root);
    chooser("image", data.scenes.map((one) => one.name), scene, (value) => { scene = value; show(); });
    chooser("layer", data.scenes[0].layers.map((one) => one.name), layer, (value) => { layer = value; show(); });

    const body = make("div", "touch-body", root);
    const left = make("div", "touch-left", body);
    const stage = make("div", "touch-stage", left);
    stage.tabIndex = 0;
    stage.setAttribute("role", "application");
    stage.setAttribute("aria-roledescription", "picture to explore");
    make("p", "touch-hint", left, "Point at the picture, tap it, or use the arrow keys.");
    const right = make("div", "touch-right", body);
    const said = make("p", "touch-said", root);
    said.setAttribute("aria-live", "polite");
    let picture, marks, dot;

    const middle = () => {
      const places = sides[0].places;
      return [Math.floor(places[0] / 2), Math.floor(places[1] / 2)];
    };

    function show() {
      const chosen = data.scenes[scene], one = chosen.layers[layer];
      // the same place of another layer or picture
      const share = sides.length ? [(row + 0.5) / sides[0].places[0], (column + 0.5) / sides[0].places[1]] : null;
      sides = one.sides.map(read);
      [row, column] = share ? share.map((part, axis) => Math.floor(part * sides[0].places[axis])) : middle();
      stage.replaceChildren();
      picture = make("img", "", stage);
      picture.src = chosen.picture;
      picture.alt = "";
      picture.draggable = false;
      stage.setAttribute("aria-label", `${chosen.name}, ${one.name}: move with the arrow keys`);
      marks = sides.map((side) => make("div", `touch-window ${side.kind}`, stage));
      dot = make("div", "touch-dot", stage);
      // room for windows that reach out of the picture
      const out = [0, 1].map((axis) => Math.max(...sides.map((side) => {
        const last = frame(side, side.places[0] - 1, side.places[1] - 1), start = frame(side, 0, 0);
        return Math.max(0, -start[axis], last[axis] + last[axis + 2] - chosen.size[axis]);
      })));
      const whole = [0, 1].map((axis) => chosen.size[axis] + 2 * out[axis]);
      stage.style.aspectRatio = `${whole[1]} / ${whole[0]}`;
      stage.measure = { out, whole };
      put(picture, [0, 0, ...chosen.size]);
      right.replaceChildren();
      rows = sides.map((side) => {
        const block = make("div", `touch-side ${side.kind}`, right);
        make("h4", "", block, titles[side.kind]);
        const line = make("div", "touch-line", block);
        const tiles = {};
        [["window", ""], ["kernel", "×"], ["products", "="], ["output", "Σ"]].forEach(([name, sign]) => {
          if (sign) make("span", "touch-sign", line, sign).setAttribute("aria-hidden", "true");
          const tile = make("div", `touch-tile ${name}`, line);
          tiles[name] = make("canvas", "", make("div", "touch-square", tile));
          tiles[name].setAttribute("aria-hidden", "true");
          make("span", "", tile, name);
        });
        tiles.here = make("div", "touch-here", tiles.output.parentElement);
        tiles.text = make("p", "touch-text", block);
        return tiles;
      });
      update();
    }

    function put(element, [top, first, height, width]) {
      const { out, whole } = stage.measure;
      element.style.top = `${100 * (top + out[0]) / whole[0]}%`;
      element.style.left = `${100 * (first + out[1]) / whole[1]}%`;
      element.style.height = `${100 * height / whole[0]}%`;
      element.style.width = `${100 * width / whole[1]}%`;
    }

    function update() {
      const stops = data.stops[isDark(root) ? "dark" : "light"];
      const words = [`Row ${row + 1}, column ${column + 1}.`];
      put(dot, [row * sides[0].stride[0], column * sides[0].stride[1], ...sides[0].stride]);
      sides.forEach((side, place) => {
        const found = at(side, row, column), tiles = rows[place];
        put(marks[place], frame(side, row, column));
        paint(tiles.window, side.taps, found.window, side.givenLimit, stops);
        paint(tiles.kernel, side.taps, found.kernel, side.limit, stops);
        paint(tiles.products, side.taps, found.products, largest(found.products.filter((v) => !Number.isNaN(v))), stops);
        paint(tiles.output, side.places, side.output, side.outputLimit, stops);
        const [down, across] = side.places;
        Object.assign(tiles.here.style, {
          top: `${100 * row / down}%`, left: `${100 * column / across}%`,
          height: `${100 / down}%`, width: `${100 / across}%`,
        });
        const count = side.taps[0] * side.taps[1];
        const what = `${count} products, from ${side.from}, add up to ${written(found.sum)}`;
        const all = side.count > 1
          ? `; with those of the other ${side.count - 1} channels, the output is ${written(found.output)}.`
          : ": the output.";
        tiles.text.textContent = what + all;
        tiles.output.title = written(found.output);
        words.push(`${side.kind === "involution" ? "Involution" : "Convolution"}: ${what}${all}`);
      });
      // a screen reader says where one stops, not every step on the way
      clearTimeout(timer);
      timer = setTimeout(() => { said.textContent = words.join(" "); }, 150);
    }

    function go(newRow, newColumn) {
      const [down, across] = sides[0].places;
      const next = [Math.min(Math.max(newRow, 0), down - 1), Math.min(Math.max(newColumn, 0), across - 1)];
      if (next[0] === row && next[1] === column) return;
      [row, column] = next;
      update();
    }

    stage.addEventListener("keydown", (event) => {
      const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1],
        Home: [0, -1e6], End: [0, 1e6], PageUp: [-1e6, 0], PageDown: [1e6, 0] };
      const step = steps[event.key];
      if (!step || event.ctrlKey || event.altKey || event.metaKey) return;
      event.preventDefault();
      go(row + step[0], column + step[1]);
    });
    const point = (event) => {
      const box = stage.getBoundingClientRect(), { out, whole } = stage.measure;
      const y = (event.clientY - box.top) / box.height * whole[0] - out[0];
      const x = (event.clientX - box.left) / box.width * whole[1] - out[1];
      go(Math.floor(y / sides[0].stride[0]), Math.floor(x / sides[0].stride[1]));
    };
    stage.addEventListener("pointerdown", point);
    stage.addEventListener("pointermove", point);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", update);
    show();
  }

  const startAll = () => document.querySelectorAll(".touch[data-touch]:not([data-ready])").forEach(start);
  const watch = () => {
    startAll();
    // a page may put one in later
    new MutationObserver(startAll).observe(document.body, { childList: true, subtree: true });
  };
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", watch);
  else watch();
})();
