// Mark the words and keywords of a time axis at the current time of its recording, and move the line that shows it.
function markTime(timeline, audio) {
  const now = (100 * audio.currentTime) / audio.duration || 0;
  timeline.querySelector(".playhead").style.left = `${now}%`;
  for (const span of timeline.querySelectorAll(".spans > li")) {
    const left = parseFloat(span.style.left);
    span.classList.toggle("now", now > left && now <= left + parseFloat(span.style.width));
  }
}

// Return the time that a click on a time axis means.
function timeOf(timeline, click, audio) {
  const { left, width } = timeline.getBoundingClientRect();
  return (audio.duration * (click.clientX - left)) / width || 0;
}
