"use strict";
// Blocks of the page that are packed: JSON, compressed by gzip, in base64. A block is unpacked once; its
// HTML goes into the parts of the page that it names, its charts to whoever asked.

const unpacked = new Map();

// Said where a block cannot be unpacked.
const TOO_OLD = "This browser cannot unpack the rest of the page; one of 2023 or later can. The tables are beside the page as text.";

// A promise of a block's contents, refused by browsers that cannot unpack it; undefined if there is no such
// block, since all of it is plain.
function unpack(name, take) {
  const packed = document.getElementById(name);
  if (packed && !unpacked.has(name)) unpacked.set(name, contents(packed.textContent).then((block) => {
    for (const [part, text] of Object.entries(block.parts))
      document.querySelector(`[data-part="${part}"]`)?.insertAdjacentHTML("beforeend", text);
    take(block.charts);
  }));
  return unpacked.get(name);
}

async function contents(packed) {
  const bytes = Uint8Array.from(atob(packed), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).json();
}
