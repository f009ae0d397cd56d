"use strict";
// The scene viewer: the buttons choose a scene and a subset of the sensors; every picture of every subset is in the page already.
(() => {
  const viewer = document.getElementById("viewer");
  const data = JSON.parse(document.getElementById("scenes").textContent);
  const on = new Set(data.sensors);
  let number = 0;

  const pictures = [...viewer.querySelectorAll("[data-picture]")].map((figure) => ({
    kind: figure.dataset.picture,
    run: Number(figure.dataset.run),
    sensor: figure.dataset.sensor,
    figure,
    image: figure.querySelector("img"),
    none: figure.querySelector(".none"),
    note: figure.querySelector(".note"),
  }));
  const percent = (fraction) => `${(100 * fraction).toFixed(1)} %`;

  function show(picture, uri, alt, instead, note) {
    picture.image.hidden = !uri;
    picture.none.hidden = Boolean(uri);
    if (uri) picture.image.src = uri;
    picture.image.alt = uri ? alt : "";
    picture.none.textContent = instead;
    picture.note.textContent = note;
  }

  function draw() {
    const scene = data.scenes[number];
    const names = data.sensors.filter((sensor) => on.has(sensor));
    const subset = names.join(" + ") || "no sensor";
    const answers = scene.answers.map((answer) => answer && answer[names.join("+")]);
    const right = (answer) => (answer.right === null ? "nothing to judge" : `${percent(answer.right)} right`);

    for (const picture of pictures) {
      const { kind, run, sensor } = picture;
      const answer = answers[run];
      picture.figure.classList.toggle("off", sensor !== undefined && !on.has(sensor));
      if (kind === "label") {
        show(picture, scene.label, "Label map of the scene", "", "");
      } else if (kind === "input") {
        const seen = scene.coverage[sensor];
        const note = seen === 0 ? "absent here" : seen < 1 ? `${percent(seen)} there` : "";
        show(picture, scene.inputs[sensor], `What ${sensor} sees`, "", on.has(sensor) ? note : "off");
      } else if (!answer) {
        show(picture, "", "", "no sensor, no answer", "");
      } else if (kind === "prediction") {
        show(picture, answer.prediction, `Prediction from ${subset}`, "", "");
      } else if (kind === "errors") {
        show(picture, answer.errors, `Errors with ${subset}: ${right(answer)}`, "", right(answer));
      } else {
        const share = answer.share[sensor];
        const note = share === undefined || share === null ? "" : `mean ${share.toFixed(2)}`;
        const alt = `Robustness of ${sensor} with ${subset}, ${note}`;
        show(picture, answer.robustness[sensor], alt, on.has(sensor) ? "not recorded" : "off", note);
      }
    }
    for (const bar of viewer.querySelectorAll("[data-rests]")) {
      const answer = answers[Number(bar.dataset.rests)];
      for (const part of bar.querySelectorAll("[data-share]")) {
        part.style.setProperty("--share", (answer && answer.share[part.dataset.share]) || 0);
      }
    }
    viewer.querySelector("[data-scene-id]").textContent = scene.id;
    for (const button of viewer.querySelectorAll("[data-switch]")) {
      button.setAttribute("aria-pressed", String(on.has(button.dataset.switch)));
    }
    for (const button of viewer.querySelectorAll("[data-scene]")) {
      button.setAttribute("aria-pressed", String(Number(button.dataset.scene) === number));
    }
    const said = answers.map((answer, run) => {
      const name = data.runs.length > 1 ? `${data.runs[run]} ` : "";
      return answer && name + (answer.right === null ? "–" : percent(answer.right));
    });
    viewer.querySelector(".state").textContent = names.length
      ? `Scene ${number + 1} from ${subset}. Right, of the labelled pixels: ${said.filter(Boolean).join(", ")}.`
      : "No sensor is left: there is nothing to answer from, and the map would be “no data”.";
  }

  viewer.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    const sensor = button.dataset.switch;
    if (sensor !== undefined && !on.delete(sensor)) on.add(sensor);
    if (button.dataset.scene !== undefined) number = Number(button.dataset.scene);
    draw();
  });
  draw();
})();
