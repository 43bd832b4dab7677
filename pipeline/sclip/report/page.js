"use strict";
const all = (selector, within = document) => [...within.querySelectorAll(selector)];

// The page stores each picture once, however many places show it.
const pictures = JSON.parse(document.getElementById("pictures").textContent);
for (const image of all("img[data-picture]")) image.src = pictures[image.dataset.picture];

function show(arch) {
  for (const part of all("[data-arch]")) part.hidden = part.dataset.arch !== arch;
}

for (const choice of all("input[name=arch]")) {
  choice.addEventListener("change", () => show(choice.value));
  if (choice.checked) show(choice.value);
}

// During playback, mark the current word and keyword. A click on the time axis seeks to that time.
for (const article of all("article")) {
  const [audio] = all("audio", article);
  const [timeline] = all(".timeline", article);
  const [playhead] = all(".playhead", article);
  const spans = all(".spans > li", article);

  const mark = () => {
    const now = (100 * audio.currentTime) / audio.duration || 0;
    playhead.style.left = `${now}%`;
    for (const span of spans) {
      const left = parseFloat(span.style.left);
      span.classList.toggle("now", now > left && now <= left + parseFloat(span.style.width));
    }
    if (!audio.paused) requestAnimationFrame(mark);
  };
  audio.addEventListener("play", () => {
    for (const other of all("audio")) if (other !== audio) other.pause();
    mark();
  });
  audio.addEventListener("seeked", mark);
  timeline.addEventListener("click", (event) => {
    const { left, width } = timeline.getBoundingClientRect();
    audio.currentTime = (audio.duration * (event.clientX - left)) / width || 0;
  });
}
