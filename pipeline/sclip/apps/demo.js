// While a recording plays, move along the time axes of its answer. A keyword appears at the end of its span, when CIF
// fires. Answers come and go, so the document listens; events of audio elements do not bubble, but they are captured.
document.addEventListener("play", ({ target: audio }) => {
  const answer = audio.closest(".sclip");
  if (!answer) return;
  const follow = () => {
    for (const timeline of answer.querySelectorAll(".timeline")) {
      markTime(timeline, audio);
      const now = (100 * audio.currentTime) / audio.duration || 0;
      for (const slot of timeline.querySelectorAll(".slots > li")) {
        const end = parseFloat(slot.style.left) + parseFloat(slot.style.width);
        slot.classList.toggle("later", !audio.paused && now < end);
      }
    }
    if (!audio.paused) requestAnimationFrame(follow);
  };
  follow();
}, true);

document.addEventListener("click", (event) => {
  const timeline = event.target.closest(".sclip .timeline");
  if (!timeline) return;
  const audio = timeline.closest(".sclip").querySelector("audio");
  audio.currentTime = timeOf(timeline, event, audio);
  markTime(timeline, audio);
});
