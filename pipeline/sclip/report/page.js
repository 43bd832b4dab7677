const all = (selector, within = document) => [...within.querySelectorAll(selector)];
const byId = (id) => document.getElementById(id);
const dataOf = (id) => JSON.parse(byId(id).textContent);

// The page stores each picture once, however many places show it.
const pictures = dataOf("pictures");
for (const image of all("img[data-picture]")) image.src = pictures[image.dataset.picture];

let arch;

function choose(name) {
  arch = name;
  for (const part of all("[data-arch]")) part.hidden = part.dataset.arch !== arch;
  search();
}

// The search. All texts of utterances reach the page as text nodes, so none of them is read as HTML.
const PAGE = 20; // utterances that are shown at a time
const thumbnails = dataOf("thumbnails");
const utterances = dataOf("utterances");
let found = [];

const words = (text) => text.toLowerCase().normalize("NFKD").replace(/\p{M}/gu, "").match(/[\p{L}\p{N}]+/gu) ?? [];

function fields(utterance) {
  const { keywords } = utterance.outputs[arch];
  return { caption: utterance.text, keywords: keywords.join(" "), speaker: utterance.speaker, id: utterance.id };
}

function search() {
  const wanted = words(byId("query").value);
  const field = byId("field").value;
  found = utterances.filter((utterance) => {
    const texts = fields(utterance);
    const spoken = words(field ? texts[field] : Object.values(texts).join(" "));
    return wanted.every((word) => spoken.some((other) => other.startsWith(word)));
  });
  byId("count").textContent = `${found.length.toLocaleString("en")} of ${utterances.length.toLocaleString("en")} utterances`;
  byId("found").replaceChildren();
  showMore();
}

function showMore() {
  const shown = byId("found").children.length;
  byId("found").append(...found.slice(shown, shown + PAGE).map(item));
  byId("more").hidden = shown + PAGE >= found.length;
}

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

function item(utterance) {
  const { rank, keywords } = utterance.outputs[arch];
  const caption = new Set(words(utterance.text));
  const shown = keywords.flatMap((keyword, i) => [
    i ? ", " : "",
    element(words(keyword).some((word) => caption.has(word)) ? "b" : "span", {}, keyword),
  ]);
  const commands = all(`.commands[data-arch="${CSS.escape(arch)}"] code[data-audio]`);
  const ofThis = commands.map((code) => code.textContent.replace(code.dataset.audio, () => utterance.audio));
  const about = element("p", { className: "note" }, [utterance.id, utterance.speaker].filter(Boolean).join(" · "));
  if (utterance.example) about.append(" · ", element("a", { href: `#example-${utterance.example}` }, "play it"));
  return element(
    "li",
    {},
    element("img", { src: thumbnails[utterance.picture], width: 56, height: 56, alt: "", loading: "lazy" }),
    element(
      "div",
      {},
      element("p", { className: "caption" }, utterance.text || utterance.id),
      element("p", {}, `Rank ${rank.toLocaleString("en")}`, ...(keywords.length ? [" · keywords: ", ...shown] : [])),
      about,
      element(
        "details",
        {},
        element("summary", {}, "Commands"),
        ...ofThis.map((command) => element("code", {}, command)),
      ),
    ),
  );
}

byId("query").addEventListener("input", search);
byId("field").addEventListener("change", search);
byId("more").addEventListener("click", () => {
  const next = byId("found").children.length;
  showMore();
  // The button may have gone, and the reader goes on with the first new utterance.
  all("summary", byId("found").children[next])[0].focus();
});
all("form[role=search]")[0].addEventListener("submit", (event) => event.preventDefault());

for (const choice of all("input[name=arch]")) {
  choice.addEventListener("change", () => choose(choice.value));
  if (choice.checked) choose(choice.value);
}

// During playback, mark the current word and keyword. A click on the time axis seeks to that time.
for (const article of all("article")) {
  const [audio] = all("audio", article);
  const [timeline] = all(".timeline", article);
  const mark = () => {
    markTime(timeline, audio);
    if (!audio.paused) requestAnimationFrame(mark);
  };
  audio.addEventListener("play", () => {
    for (const other of all("audio")) if (other !== audio) other.pause();
    mark();
  });
  audio.addEventListener("seeked", mark);
  timeline.addEventListener("click", (event) => {
    audio.currentTime = timeOf(timeline, event, audio);
  });
}
